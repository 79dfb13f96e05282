"""CLIP and DINO through transformers, from a folder or the local hub cache. Images are H W 3 float32 in [0, 1]."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from ..base.errors import MissingDependencyError
from ..models import hub
from ._batching import BatchQueue, Deferred

if TYPE_CHECKING:
    from torch import Tensor


def _load(model_class: str, processor_class: str, location: str, option: str) -> tuple[Any, Any]:
    """Load a transformers model and its image processor from a folder or hub id.

    option: the metrics' option that names the location. Raise MissingDependencyError with the command that downloads
    the model, UserError for a folder of another kind.
    """
    import transformers

    try:
        folder = hub.find_folder(location)
        with hub.silence_transformers():
            model = getattr(transformers, model_class).from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            )
            model = model.eval().requires_grad_(False)
            processor = getattr(transformers, processor_class)
            return model, processor.from_pretrained(folder, local_files_only=True)
    except (OSError, MissingDependencyError) as error:
        raise MissingDependencyError(
            f"{option} needs {location}, which is not on this machine",
            f"get it with: {hub.download_command(location, hub.TRANSFORMERS_FILES)} "
            f"(or set the metrics' option {option} to a folder)",
        ) from error


def _preprocess(processor: Any, image: ndarray) -> "Tensor":
    image = np.rint(image * 255).astype(np.uint8)
    # State the order of the axes: a crop may be 3 rows high.
    batch = processor(images=image, input_data_format="channels_last", return_tensors="pt")
    return batch["pixel_values"]


def _normalize(vectors: "Tensor") -> ndarray:
    """Scale vectors ... d to length 1."""
    array = vectors.float().cpu().numpy()
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def _crop_suffix(processor: Any) -> str:
    """Return the part of a value's name that states which part of a wide image the network sees."""
    return ",centre" if getattr(processor, "do_center_crop", False) else ""


class ClipEmbedder:
    """Unit embeddings of images and texts in CLIP's common space."""

    def __init__(self, location: str, device: str = "cpu"):
        from transformers import AutoTokenizer

        self.model, self.processor = _load("CLIPModel", "CLIPImageProcessor", location, "clip")
        self.model.to(device)
        self.tokenizer = AutoTokenizer.from_pretrained(
            hub.find_folder(location), local_files_only=True
        )
        self.device = device
        self.crop_suffix = _crop_suffix(self.processor)
        self.queue: BatchQueue[ndarray] = BatchQueue(self._embed)

    def _embed(self, pixels: "Tensor") -> ndarray:
        return _normalize(self.model.get_image_features(pixels.to(self.device)).pooler_output)

    def embed(self, image: ndarray) -> Deferred[ndarray]:
        """Queue an image for its unit embedding, d."""
        return self.queue.put(_preprocess(self.processor, image))

    def embed_text(self, text: str) -> ndarray:
        """Return the unit embedding of a text, d. Texts beyond CLIP's limit (77 tokens) are truncated."""
        limit = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
        return _normalize(self.model.get_text_features(**tokens.to(self.device)).pooler_output)[0]


class DinoEmbedder:
    """A DINO vision transformer: its class token, and the keys of its last layer."""

    def __init__(self, location: str, option: str, device: str = "cpu"):
        self.model, self.processor = _load("AutoModel", "AutoImageProcessor", location, option)
        self.model.to(device)
        self.device = device
        self.crop_suffix = _crop_suffix(self.processor)
        self.class_tokens: BatchQueue[ndarray] = BatchQueue(self._run_class_tokens)
        self.last_keys: BatchQueue[ndarray] = BatchQueue(self._run_last_keys)

    def class_token(self, image: ndarray) -> Deferred[ndarray]:
        """Queue an image for its unit class token, d."""
        return self.class_tokens.put(_preprocess(self.processor, image))

    def _run_class_tokens(self, pixels: "Tensor") -> ndarray:
        return _normalize(self.model(pixels.to(self.device)).last_hidden_state[:, 0])

    def keys(self, image: ndarray) -> Deferred[ndarray]:
        """Queue an image for the unit keys of the last layer, N d: heads joined, class token included."""
        return self.last_keys.put(_preprocess(self.processor, image))

    def _run_last_keys(self, pixels: "Tensor") -> ndarray:
        outputs: list[Tensor] = []
        layers = [
            module
            for name, module in self.model.named_modules()
            if name.endswith(("k_proj", "attention.key"))
        ]
        handle = layers[-1].register_forward_hook(lambda _m, _i, output: outputs.append(output))
        try:
            self.model(pixels.to(self.device))
        finally:
            handle.remove()
        return _normalize(outputs[0])
