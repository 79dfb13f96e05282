"""Words to boxes: Grounding DINO (Liu et al., arXiv:2303.05499) through transformers."""

import torch
from numpy import ndarray

from ...base.errors import UserError
from ..hub import find_folder
from .sam2 import load_model

WEIGHTS = "IDEA-Research/grounding-dino-tiny"
SURE = 0.3  # of a box and of its words, at least
Box = tuple[int, int, int, int]  # x, y, width, height


@torch.no_grad()
def find_boxes(
    frame: ndarray, text: str, weights: str | None = None, device: str = "auto"
) -> tuple[Box, ...]:
    """The boxes of what some words name on a frame, uint8 H W 3: "a red car", or more things with full stops between.

    Raises ValueError where nothing is found, Missing where the weights are not here.
    """
    from transformers import AutoTokenizer, GroundingDinoForObjectDetection, GroundingDinoProcessor
    from transformers import GroundingDinoImageProcessorPil as Images

    from ..weights import pick_device

    if not text.strip(" ."):
        raise UserError('--words takes "[N=]TEXT", such as "a red car"')
    folder = find_folder(weights or WEIGHTS)
    model = load_model(GroundingDinoForObjectDetection, "grounding-dino", str(folder))
    model = model.eval().to(pick_device(device))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    images = Images.from_pretrained(folder, local_files_only=True)
    processor = GroundingDinoProcessor(images, tokenizer)
    asked = text.strip().lower().rstrip(".") + "."  # as the model was trained
    inputs = processor(images=frame, text=asked, return_tensors="pt").to(model.device)
    result = processor.post_process_grounded_object_detection(
        model(**inputs), inputs.input_ids, SURE, SURE, [frame.shape[:2]]
    )[0]
    kept = [_within(corners.tolist(), frame.shape) for corners in result["boxes"]]
    if not kept:
        raise UserError(f"nothing that is called {text!r} is found; give a --box, or other words")
    return tuple(kept)


def _within(corners: list[float], shape: tuple[int, ...]) -> Box:
    """Whole pixels of the frame, at least one."""
    height, width = shape[:2]
    left, top = min(max(0, int(corners[0])), width - 1), min(max(0, int(corners[1])), height - 1)
    right, low = min(round(corners[2]), width), min(round(corners[3]), height)
    return left, top, max(1, right - left), max(1, low - top)
