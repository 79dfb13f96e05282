"""Load the parts of a diffusers folder: seen to fit their configurations before anything is allocated, and to be whole
and finite afterwards.
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
from ..base.memory import ran_out
from ..base.notices import note
from . import headers, hub
from . import weights as _weights

META = torch.device("meta")
SPARE = 64  # registrations beyond one a tensor: layers that share a weight


class _TooMany(Exception):
    """More parameters are made than there are tensors for them."""


def check(folder: Path, classes: Mapping[str, type]) -> None:
    """Raises ValueError for a part that is of another class or another structure than its files. Nothing is
    allocated.

    classes: each part's class, of diffusers or transformers.
    """
    for name, cls in classes.items():
        part = folder / name
        config = headers.read(part / "config.json")
        _same_class(part, config, cls)
        headers.plausible(part)
        made = _described(part, config, cls)
        _same_shapes(part, made, headers.shapes(part))
        _fractions(part, made)


def _same_class(part: Path, config: Mapping[str, Any], cls: type) -> None:
    said = config.get("_class_name") or config.get("architectures")
    kinds = said if isinstance(said, list) else [said]
    if said and cls.__name__ not in kinds:
        raise UserError(f"{part} is of class {kinds[0]}, not {cls.__name__}")


def _described(part: Path, config: Mapping[str, Any], cls: type) -> nn.Module:
    """The part as it is configured, without memory for its weights."""
    tensors = len(headers.shapes(part))
    fault = f"{part / 'config.json'} describes no {cls.__name__}"
    try:
        with blame_folder(fault, lambda: _bare(cls)), _at_most(2 * tensors + SPARE), META:
            if issubclass(cls, PreTrainedModel):
                return cls(cls.config_class.from_pretrained(part, local_files_only=True))
            return cls.from_config(dict(config))
    except _TooMany as error:
        raise UserError(
            f"{part / 'config.json'} is damaged, or of other weights: it describes more layers "
            f"than the {tensors} tensors beside it are for"
        ) from error


def _bare(cls: type) -> nn.Module:
    """A class as it is by its own defaults, without memory."""
    with META:
        return cls(cls.config_class()) if issubclass(cls, PreTrainedModel) else cls()


@contextlib.contextmanager
def blame_folder(fault: str, control: Callable[[], object]) -> Iterator[None]:
    """Turn what a library raises over a folder's files into a UserError that begins with `fault`.

    Libraries raise errors of every type over made-up files, so that the type does not tell a bad file from a bug.
    `control` tells: it makes the same call over values that are known to be good, and where it fails too, the error is
    a bug and stays one.
    """
    try:
        yield
    except (UserError, _TooMany):
        raise
    except Exception as error:
        if was_interrupted(error):
            raise KeyboardInterrupt from error
        if ran_out(error) or not _succeeds(control):
            raise
        raise UserError(f"{fault}: {_first_line(error)}") from error


def _succeeds(control: Callable[[], object]) -> bool:
    try:
        control()
    except Exception:
        return False
    return True


@contextlib.contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Stop a module in the making at so many parameters: a hundred thousand layers would take hours."""
    made, here = [], threading.get_ident()

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and threading.get_ident() == here:
            made.append(name)
        if len(made) > count:
            raise _TooMany

    hook = nn.modules.module.register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        hook.remove()


def _same_shapes(part: Path, made: nn.Module, found: dict[str, tuple[int, ...]]) -> None:
    """Raises ValueError for a tensor of another shape, or more numbers than the files have: libraries rename old
    tensors, so that names alone do not tell.
    """
    wanted = {name: tuple(value.shape) for name, value in made.named_parameters()}
    for name, shape in wanted.items():
        if found.get(name, shape) != shape:
            raise UserError(
                f"{part} does not fit its config.json: {name} is {_text(found[name])}, "
                f"and should be {_text(shape)}"
            )
    twice = made.state_dict().keys() - wanted.keys()  # a shared weight may be saved under each name
    found = {name: shape for name, shape in found.items() if name not in twice}
    held, count = sum(b.numel() for b in made.buffers()), headers.size(wanted)
    fits = 0.9 < count / max(headers.size(found), 1) < 1.1
    if not fits or held > max(count, 2**24):
        raise UserError(
            f"{part / 'config.json'} is damaged, or of other weights: it describes {count} "
            f"numbers, and the files beside it hold {headers.size(found)}"
        )


def _fractions(part: Path, made: nn.Module) -> None:
    """Raises ValueError for a weight that holds whole numbers: a library would take them for the weights themselves."""
    found = {name for name, kind in headers.kinds(part).items() if kind in headers.INTEGERS}
    weights = {name for name, _ in made.named_parameters()}
    wrong = sorted(n for n in found if n in weights or n.endswith((".weight", ".bias")))
    if wrong:
        named = headers.some(wrong)
        raise UserError(
            f"{part} holds {named} as whole numbers, as quantised weights are, which are not read",
            headers.FULL,
        )


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().split("\n")[0][:200]


def load(cls: type, part: Path, kind: torch.dtype) -> nn.Module:
    """A part from its safetensors. Raises UserError where a tensor lacks or is not finite; notes what is not used."""
    fault = f"{part} cannot be loaded"
    with (
        blame_folder(fault, lambda: _load_known_part(cls, kind)),
        _link_plain_names(cls, part) as folder,
    ):
        made, said = _from_pretrained(cls, folder, kind)
    absent, spare = (sorted(said[name]) for name in ("missing_keys", "unexpected_keys"))
    if absent:
        raise UserError(
            f"{part} is not whole: it lacks {headers.some(absent)}",
            "get its weights again, or check that config.json belongs to them",
        )
    if spare:
        note(
            f"{part} holds {headers.some(spare)}, which its config.json has no place for: not used"
        )
    _refuse_not_finite(part, made)
    return made


def _from_pretrained(cls: type, folder: Path, kind: torch.dtype) -> tuple[nn.Module, dict]:
    from diffusers import ModelMixin

    name = "torch_dtype" if issubclass(cls, ModelMixin) else "dtype"  # transformers has renamed it
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    with hub.quiet():
        return cls.from_pretrained(folder, **options, **{name: kind})


def _load_known_part(cls: type, kind: torch.dtype) -> None:
    """Load an embedded part of the same class, where there is one."""
    for file in sorted(_weights.CHECKPOINTS.glob("*/*/config.json")):
        if _weights.class_of(headers.read(file)) == cls.__name__:
            _from_pretrained(cls, file.parent, kind)
            return
    _bare(cls)


@contextlib.contextmanager
def _link_plain_names(cls: type, part: Path) -> Iterator[Path]:
    """A folder whose weights have the names that a library looks for: the part itself, or links to the files of its
    variant, whatever that is called.
    """
    from diffusers import ModelMixin

    stem = "diffusion_pytorch_model" if issubclass(cls, ModelMixin) else "model"
    name, files = headers.choose(part)
    plain = [f"{stem}.safetensors", f"{stem}.safetensors.index.json"]
    varied = any(f".{variant}" in file.name for file in files for variant in headers.VARIANTS)
    if name in plain and not varied:
        yield part
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        folder = Path(made)
        (folder / "config.json").symlink_to((part / "config.json").absolute())
        names = [plain[0]] if len(files) == 1 else [file.name for file in files]
        for link, file in zip(names, files, strict=True):
            (folder / link).symlink_to(file.absolute())
        if len(files) > 1:
            index = {"metadata": {}, "weight_map": headers.places(part)}
            (folder / plain[1]).write_text(json.dumps(index))
        yield folder


def _refuse_not_finite(part: Path, made: nn.Module) -> None:
    for name, value in made.named_parameters():
        ends = torch.stack(torch.aminmax(value.detach())) if value.numel() else value
        if not ends.isfinite().all():
            raise UserError(
                f"{part} is damaged: {name} holds numbers that are not finite", "get it again"
            )


def _tokenizer(place: Path) -> Any:
    from transformers import AutoTokenizer

    with hub.quiet():
        return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)


def _load_known_tokenizer() -> None:
    _tokenizer(min(_weights.CHECKPOINTS.glob("*/tokenizer")))


def tokenizer(folder: Path, rows: int, length: int | None = None) -> Any:
    """A folder's tokenizer. rows: how many tokens the text encoder knows; length: how many it takes at once.

    Raises ValueError where it cannot be read, or is of another encoder. Code that a folder brings is never run.
    """
    place = folder / "tokenizer"
    with blame_folder(f"{place} cannot be loaded", _load_known_tokenizer):
        made = _tokenizer(place)
        most = max(made.get_vocab().values(), default=-1)
    if not 0 <= most < rows:
        raise UserError(
            f"{place} is of another text encoder: it has tokens up to {most}, "
            f"and {folder / 'text_encoder'} knows {rows}"
        )
    most = made.model_max_length
    if not (isinstance(most, (int, float)) and most >= 2):  # a token and the mark of the end
        raise UserError(f"{place} is damaged: its model_max_length is {most!r}")
    made.model_max_length = most if length is None else min(most, length)
    return made


def processor(folder: Path, cls: type) -> Any:
    """What an image encoder's pictures are brought to. Raises ValueError where it cannot be read."""
    file = folder / "feature_extractor" / "preprocessor_config.json"
    config = headers.read(file)
    for name in ("image_mean", "image_std"):
        if len(config.get(name) or (0, 0, 0)) != 3:
            raise UserError(f"{file} is damaged: {name} is not three numbers")
    with blame_folder(f"{file} cannot be used", cls):
        return cls.from_pretrained(file.parent, local_files_only=True)


def agree(folder: Path, what: str, *numbers: Any) -> None:
    """Raises ValueError where two parts differ in what they share; what is no number is not compared."""
    known = {n for n in numbers if isinstance(n, (int, float))}
    if len(known) > 1:
        first, second = sorted(known)
        raise UserError(
            f"{folder} mixes parts of different models: their {what} are {first} and {second}"
        )
