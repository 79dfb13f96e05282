"""Load the parts of a diffusers folder.

Before anything is allocated, each part is compared with its configuration. After loading, it must be complete and
finite.
"""

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..base.errors import UserError, was_interrupted
from ..base.memory import is_out_of_memory
from ..base.notices import warn_user
from . import checkpoint, hub, weight_files
from .checkpoint import Checkpoint, class_name
from .config_files import read_json

META = torch.device("meta")
SPARE_PARAMETERS = 64  # beyond one for each tensor: layers that share a weight register it again
MAX_BUFFER_NUMBERS = 2**24


class TooManyParametersError(Exception):
    """A module registers more parameters than there are tensors for them."""


def check_parts(found: Checkpoint, classes: Mapping[str, type[nn.Module]]) -> None:
    """Raise UserError for a part that has another class or another structure than its files. Nothing is allocated.

    classes: each part's class, of diffusers or transformers.
    """
    for name, cls in classes.items():
        part = found.part(name)
        config = read_json(part / "config.json")
        _check_class(part, config, cls)
        weight_files.check_plausible(part)
        module = _build_on_meta(part, config, cls)
        _check_shapes(part, module, weight_files.tensor_shapes(part))
        _refuse_whole_numbers(part, module)


def _check_class(part: Path, config: Mapping[str, Any], cls: type) -> None:
    names = config.get("_class_name") or config.get("architectures")
    names = names if isinstance(names, list) else [names]
    if names[0] and cls.__name__ not in names:
        raise UserError(f"{part} is of class {names[0]}, not {cls.__name__}")


def _build_on_meta(part: Path, config: Mapping[str, Any], cls: Any) -> nn.Module:
    """Return the part as it is configured, without memory for its weights."""
    tensors = len(weight_files.tensor_shapes(part))
    cause = f"{part / 'config.json'} describes no {cls.__name__}"
    limit = 2 * tensors + SPARE_PARAMETERS
    try:
        with blame_folder(cause, lambda: _build_default(cls)), _limit_parameters(limit), META:
            if issubclass(cls, PreTrainedModel):
                config_class: Any = cls.config_class
                return cls(config_class.from_pretrained(part, local_files_only=True))
            return cls.from_config(dict(config))
    except TooManyParametersError as error:
        raise UserError(
            f"{part / 'config.json'} is damaged, or belongs to other weights: it describes more "
            f"layers than the {tensors} tensors next to it are for"
        ) from error


def _build_default(cls: Any) -> nn.Module:
    """Return a module with its class's own defaults, without memory for its weights."""
    with META:
        if issubclass(cls, PreTrainedModel):
            config_class: Any = cls.config_class
            return cls(config_class())
        return cls()


@contextlib.contextmanager
def blame_folder(cause: str, control: Callable[[], object]) -> Iterator[None]:
    """Turn an error that a library raises over a folder's files into a UserError that begins with `cause`.

    Libraries raise errors of every type over damaged files, so the type does not tell a damaged file from a bug.
    `control` does: it makes the same call with files that are known to be good. If it fails too, the error is a bug and
    is raised as it is.
    """
    try:
        yield
    except (UserError, TooManyParametersError):
        raise
    except Exception as error:
        if was_interrupted(error):
            raise KeyboardInterrupt from error
        if is_out_of_memory(error) or not _succeeds(control):
            raise
        raise UserError(f"{cause}: {_first_line(error)}") from error


def _succeeds(control: Callable[[], object]) -> bool:
    try:
        control()
    except Exception:
        return False
    return True


@contextlib.contextmanager
def _limit_parameters(limit: int) -> Iterator[None]:
    """Stop the construction of a module at a number of parameters: a hundred thousand layers would take hours."""
    count, thread = 0, threading.get_ident()

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        count += parameter is not None and threading.get_ident() == thread
        if count > limit:
            raise TooManyParametersError

    hook = nn.modules.module.register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        hook.remove()


def _check_shapes(part: Path, module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise UserError for a tensor of another shape, and for another count of numbers than the files hold.

    Libraries rename old tensors, so names alone are not enough.
    """
    expected = {name: tuple(value.shape) for name, value in module.named_parameters()}
    for name, shape in expected.items():
        if shapes.get(name, shape) != shape:
            raise UserError(
                f"{part} does not fit its config.json: {name} is {_shape_text(shapes[name])}, "
                f"and should be {_shape_text(shape)}"
            )
    # A shared weight may be saved under each of its names.
    duplicates = module.state_dict().keys() - expected.keys()
    shapes = {name: shape for name, shape in shapes.items() if name not in duplicates}
    buffered = sum(b.numel() for b in module.buffers())
    count, stored = weight_files.count_numbers(expected), weight_files.count_numbers(shapes)
    fits = 0.9 < count / max(stored, 1) < 1.1
    if not fits or buffered > max(count, MAX_BUFFER_NUMBERS):
        raise UserError(
            f"{part / 'config.json'} is damaged, or belongs to other weights: it describes {count} "
            f"numbers, and the files next to it hold {stored}"
        )


def _refuse_whole_numbers(part: Path, module: nn.Module) -> None:
    """Raise UserError for a weight that holds whole numbers: a library would load them as the weights themselves."""
    dtypes = weight_files.tensor_dtypes(part)
    whole = {name for name, dtype in dtypes.items() if dtype in weight_files.INTEGER_DTYPES}
    weights = {name for name, _ in module.named_parameters()}
    wrong = sorted(n for n in whole if n in weights or n.endswith((".weight", ".bias")))
    if wrong:
        raise UserError(
            f"{part} holds {weight_files.name_first(wrong)} as whole numbers, "
            "as quantised weights do, which are not supported",
            weight_files.GET_FULL_WEIGHTS,
        )


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().split("\n")[0][:200]


def load_part(cls: type[nn.Module], part: Path, dtype: torch.dtype) -> Any:
    """Load a part from its safetensors.

    Raise UserError for a tensor that is missing or not finite. Note tensors that the configuration has no place for.
    """
    cause = f"{part} cannot be loaded"
    with (
        blame_folder(cause, lambda: _load_known_part(cls, dtype)),
        _link_plain_names(cls, part) as folder,
    ):
        module, report = _from_pretrained(cls, folder, dtype)
    missing, spare = (sorted(report[name]) for name in ("missing_keys", "unexpected_keys"))
    if missing:
        raise UserError(
            f"{part} is not complete: it lacks {weight_files.name_first(missing)}",
            "get its weights again, or check that config.json belongs to them",
        )
    if spare:
        names = weight_files.name_first(spare)
        warn_user(f"{part} holds {names}, which its config.json has no place for: not used")
    _refuse_not_finite(part, module)
    return module


def _from_pretrained(cls: type, folder: Path, dtype: torch.dtype) -> tuple[nn.Module, dict]:
    from diffusers import ModelMixin  # pyright: ignore[reportPrivateImportUsage]  # diffusers exports it on use

    name = "torch_dtype" if issubclass(cls, ModelMixin) else "dtype"  # transformers renamed it
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    from_pretrained: Any = getattr(cls, "from_pretrained")  # noqa: B009  the two libraries' types differ
    with hub.silence_transformers():
        return from_pretrained(folder, **options, **{name: dtype})


def _load_known_part(cls: type[nn.Module], dtype: torch.dtype) -> None:
    """Load an embedded part of the same class, if there is one."""
    for file in sorted(checkpoint.EMBEDDED.glob("*/*/config.json")):
        if class_name(read_json(file)) == cls.__name__:
            _from_pretrained(cls, file.parent, dtype)
            return
    _build_default(cls)


@contextlib.contextmanager
def _link_plain_names(cls: type[nn.Module], part: Path) -> Iterator[Path]:
    """Yield a folder whose weights have the names that a library looks for.

    It is the part itself, or a temporary folder with links to the files of its variant.
    """
    from diffusers import ModelMixin  # pyright: ignore[reportPrivateImportUsage]  # diffusers exports it on use

    stem = "diffusion_pytorch_model" if issubclass(cls, ModelMixin) else "model"
    name, files = weight_files.choose_weight_files(part)
    single, index = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    if name in (single, index) and not any(map(_is_variant, files)):
        yield part
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        (folder / "config.json").symlink_to((part / "config.json").absolute())
        names = [single] if len(files) == 1 else [file.name for file in files]
        for link, file in zip(names, files, strict=True):
            (folder / link).symlink_to(file.absolute())
        if len(files) > 1:
            values = {"metadata": {}, "weight_map": weight_files.tensor_files(part)}
            (folder / index).write_text(json.dumps(values))
        yield folder


def _is_variant(file: Path) -> bool:
    return any(f".{variant}" in file.name for variant in weight_files.VARIANTS)


def _refuse_not_finite(part: Path, module: nn.Module) -> None:
    for name, value in module.named_parameters():
        ends = torch.stack(torch.aminmax(value.detach())) if value.numel() else value
        if not ends.isfinite().all():
            cause = f"{part} is damaged: {name} holds numbers that are not finite"
            raise UserError(cause, "get it again")


def _from_tokenizer_folder(place: Path) -> Any:
    from transformers import AutoTokenizer

    with hub.silence_transformers():
        return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)


def _load_known_tokenizer() -> None:
    _from_tokenizer_folder(min(checkpoint.EMBEDDED.glob("*/tokenizer")))


def load_tokenizer(found: Checkpoint, vocabulary: int, max_length: int | None = None) -> Any:
    """Load a checkpoint's tokenizer. Code that a folder brings is never run.

    vocabulary: the number of tokens that the text encoder knows; max_length: how many it takes at once. Raise UserError
    if the tokenizer cannot be read or belongs to another encoder.
    """
    place = found.part("tokenizer")
    with blame_folder(f"{place} cannot be loaded", _load_known_tokenizer):
        tokenizer = _from_tokenizer_folder(place)
        last_token = max(tokenizer.get_vocab().values(), default=-1)
    if not 0 <= last_token < vocabulary:
        raise UserError(
            f"{place} belongs to another text encoder: it has tokens up to {last_token}, "
            f"and {found.part('text_encoder')} knows {vocabulary}"
        )
    own_length = tokenizer.model_max_length
    if not (isinstance(own_length, (int, float)) and own_length >= 2):  # a token and the end mark
        raise UserError(f"{place} is damaged: its model_max_length is {own_length!r}")
    tokenizer.model_max_length = own_length if max_length is None else min(own_length, max_length)
    return tokenizer


def load_image_processor(found: Checkpoint, cls: Any) -> Any:
    """Load the preprocessing of an image encoder. Raise UserError if it cannot be read."""
    file = found.file("feature_extractor/preprocessor_config.json")
    config = read_json(file)
    for name in ("image_mean", "image_std"):
        if len(config.get(name) or (0, 0, 0)) != 3:
            raise UserError(f"{file} is damaged: {name} is not three numbers")
    with blame_folder(f"{file} cannot be used", cls):
        return cls.from_pretrained(file.parent, local_files_only=True)


def require_equal(found: Checkpoint, noun: str, *numbers: Any) -> None:
    """Raise UserError if parts differ in a number that they must share. Values that are no numbers are ignored."""
    known = {n for n in numbers if isinstance(n, (int, float))}
    if len(known) > 1:
        first, second = sorted(known)
        raise UserError(
            f"{found} mixes parts of different models: their {noun} are {first} and {second}"
        )
