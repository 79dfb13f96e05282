"""Find boxes from words with Grounding DINO (Liu et al., arXiv:2303.05499) through transformers."""

import torch
from numpy import ndarray

from ...base.errors import UserError
from ...media.masks import Box
from ..hub import find_folder
from .sam2 import load_model

WEIGHTS = "IDEA-Research/grounding-dino-tiny"
MIN_SCORE = 0.3  # of a box, and of the words it is found for


@torch.no_grad()
def find_boxes(
    frame: ndarray, text: str, weights: str | None = None, device: str = "auto"
) -> tuple[Box, ...]:
    """Return the boxes of the objects that a text names on a frame, uint8 H W 3.

    text: "a red car", or several objects with full stops between them.
    Raise UserError if nothing is found, and MissingDependencyError if the weights are not there.
    """
    from transformers import AutoTokenizer, GroundingDinoForObjectDetection, GroundingDinoProcessor
    from transformers import GroundingDinoImageProcessorPil as ImageProcessor

    from ..devices import pick_device

    if not text.strip(" ."):
        raise UserError(
            "there is no text to search for", '--words takes "[N=]TEXT", as "a red car"'
        )
    folder = find_folder(weights or WEIGHTS)
    model = load_model(GroundingDinoForObjectDetection, "grounding-dino", str(folder))
    model = model.eval().to(pick_device(device))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    images = ImageProcessor.from_pretrained(folder, local_files_only=True)
    processor = GroundingDinoProcessor(images, tokenizer)
    prompt = text.strip().lower().rstrip(".") + "."  # the form that the model was trained on
    # transformers types the call's keywords as Unpack[...], which hides return_tensors
    inputs = processor(images=frame, text=prompt, return_tensors="pt")  # pyright: ignore[reportCallIssue]
    inputs = inputs.to(model.device)
    result = processor.post_process_grounded_object_detection(
        model(**inputs), inputs.input_ids, MIN_SCORE, MIN_SCORE, [frame.shape[:2]]
    )[0]
    boxes = [_to_pixels(corners.tolist(), frame.shape) for corners in result["boxes"]]
    if not boxes:
        raise UserError(f"no object called {text!r} is found", "give a --box, or other words")
    return tuple(boxes)


def _to_pixels(corners: list[float], shape: tuple[int, ...]) -> Box:
    """Return corners x, y, x, y as a box in whole pixels of the frame, at least one pixel in size."""
    height, width = shape[:2]
    left, top = min(max(0, int(corners[0])), width - 1), min(max(0, int(corners[1])), height - 1)
    right, bottom = min(round(corners[2]), width), min(round(corners[3]), height)
    return left, top, max(1, right - left), max(1, bottom - top)
