"""CLIP and DINO through transformers, from a folder or the local hub cache. Images are H W 3 float32 in [0, 1]."""

import numpy as np
from numpy import ndarray

from ..base.errors import MissingDependencyError
from ..models import hub
from ._batches import Later, Queue


def _loaded(kind: str, processor: str, place: str, option: str) -> tuple:
    """A transformers model and its processor, by their classes' names.

    Raises Missing with the commands that bring it, ValueError for a wrong folder.
    """
    import transformers

    kind = getattr(transformers, kind)
    processor = getattr(transformers, processor)
    try:
        folder = hub.find_folder(place)
        with hub.silence_transformers():
            model = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            model = model.eval().requires_grad_(False)
            return model, processor.from_pretrained(folder, local_files_only=True)
    except (OSError, MissingDependencyError) as error:
        raise MissingDependencyError(
            f"{option} needs {place}, which is not on this machine; get it with: "
            f"{hub.download_command(place, hub.TRANSFORMERS_FILES)} (or set the metrics' option {option} to a folder)"
        ) from error


def _pixels(processor, image: ndarray):
    image = np.rint(image * 255).astype(np.uint8)
    # The order of its axes must be said: a crop may be 3 rows high.
    found = processor(images=image, input_data_format="channels_last", return_tensors="pt")
    return found["pixel_values"]


def _unit(vectors) -> ndarray:
    """Vectors ... d of length 1."""
    vectors = vectors.float().cpu().numpy()
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _view(processor) -> str:
    """What a network sees of an image that is not square, as a part of a figure's name."""
    return ",centre" if getattr(processor, "do_center_crop", False) else ""


class Clip:
    """Unit embeddings of images and texts in CLIP's common space."""

    def __init__(self, place: str, device: str = "cpu"):
        from transformers import AutoTokenizer

        self.model, self.processor = _loaded("CLIPModel", "CLIPImageProcessor", place, "clip")
        self.model.to(device)
        self.tokenizer = AutoTokenizer.from_pretrained(hub.find_folder(place), local_files_only=True)
        self.device, self.view = device, _view(self.processor)
        self.queue = Queue(self._embed)

    def _embed(self, pixels) -> ndarray:
        return _unit(self.model.get_image_features(pixels.to(self.device)).pooler_output)

    def embed(self, image: ndarray) -> Later:
        return self.queue.put(_pixels(self.processor, image))

    def image(self, image: ndarray) -> ndarray:
        return self.embed(image).value

    def text(self, text: str) -> ndarray:
        """Longer texts are cut at CLIP's own limit (77 tokens)."""
        limit = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
        return _unit(self.model.get_text_features(**tokens.to(self.device)).pooler_output)[0]


class Dino:
    """A DINO vision transformer: its class token, and the keys of its last layer."""

    def __init__(self, place: str, option: str, device: str = "cpu"):
        self.model, self.processor = _loaded("AutoModel", "AutoImageProcessor", place, option)
        self.model.to(device)
        self.device, self.view = device, _view(self.processor)
        self.tokens, self.layers = Queue(self._class_tokens), Queue(self._last_keys)

    def class_token(self, image: ndarray) -> Later:
        return self.tokens.put(_pixels(self.processor, image))

    def _class_tokens(self, pixels) -> ndarray:
        return _unit(self.model(pixels.to(self.device)).last_hidden_state[:, 0])

    def keys(self, image: ndarray) -> Later:
        """Unit keys of the last layer's tokens, all heads joined, the class token too: N d."""
        return self.layers.put(_pixels(self.processor, image))

    def _last_keys(self, pixels) -> ndarray:
        caught = []
        for name, module in self.model.named_modules():
            if name.endswith(("k_proj", "attention.key")):
                last = module
        handle = last.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
        try:
            self.model(pixels.to(self.device))
        finally:
            handle.remove()
        return _unit(caught[0])
