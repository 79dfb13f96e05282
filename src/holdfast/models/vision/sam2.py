"""SAM 2 (Ravi et al., arXiv:2408.00714) through transformers: a mask from boxes and points, and its way through a clip.

A frame at a time: what the model remembers of a clip is bounded, whatever its length. Only folders and the local hub
cache are read, and only safetensors.
"""

from typing import Any

import cv2
import numpy as np
import torch
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from ...base.errors import UserError
from ...media.marks import Marks, segment_marks
from ...media.propagation import TrackerFactory
from ..hub import find_folder, silence_transformers

WEIGHTS = "facebook/sam2.1-hiera-tiny"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of all its published sizes
INSIDE, BESIDE, CORNERS = 1, 0, (2, 3)  # labels of its prompts


class Sam2:
    """A loaded model. Frames are H W 3."""

    def __init__(self, model, device: torch.device):
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = device
        size = model.config.image_size
        self.side = size if isinstance(size, int) else size[0]

    def followers(self) -> TrackerFactory:
        return TrackerFactory(lambda frame, inside: Sam2Tracker(self, frame, inside), self.side)

    def anchor(self, frame: ndarray, marks: Marks) -> ndarray:
        """The mask, boolean H W, of what is marked on a frame uint8 H W 3: by the model for boxes and points, and as
        without it where a picture is painted or the marks are exact.
        """
        if marks.brush is not None or marks.is_exact:
            return segment_marks(frame, marks)
        found = np.zeros(frame.shape[:2], bool)
        for box in marks.boxes or (None,):
            session = self.session()
            session.add_point_inputs(
                session.obj_id_to_idx(1), 0, self._prompt(marks, box, frame.shape)
            )
            session.obj_with_new_inputs = [1]
            found |= self.run(session, 0, frame.astype(np.float32) / 255) > 0.5
        return found

    def session(self):
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        place = {"inference_device": self.device, "inference_state_device": self.device}
        kept = {"video_storage_device": self.device, "dtype": torch.float32}
        return Sam2VideoInferenceSession(**place, **kept)

    def _prompt(self, marks: Marks, box: tuple | None, shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Points and labels, 1 1 n 2 and 1 1 n, in the model's own pixels. A box comes first, as two corners; points
        inside that are not in it belong to another one.
        """
        inside = marks.points
        places, labels = [], []
        if box is not None:
            x, y, width, height = box
            inside = [p for p in inside if x <= p[0] < x + width and y <= p[1] < y + height]
            places, labels = [(x, y), (x + width, y + height)], list(CORNERS)
        places += [*inside, *marks.negative_points]
        labels += [INSIDE] * len(inside) + [BESIDE] * len(marks.negative_points)
        scale = torch.tensor([self.side / shape[1], self.side / shape[0]])
        coordinates = torch.tensor(places, dtype=torch.float32) * scale
        return {
            "point_coords": coordinates[None, None],
            "point_labels": torch.tensor(labels, dtype=torch.int32)[None, None],
        }

    @torch.no_grad()
    def run(self, session: Any, number: int, frame: ndarray) -> ndarray:
        """How surely each pixel of a session's frame is the thing, float32 H W. frame: in [0, 1]."""
        found = self.model(session, frame_idx=number, frame=self._pixels(frame))
        logits = functional.interpolate(found.pred_masks.float(), frame.shape[:2], mode="bilinear")
        return logits[0, 0].sigmoid().cpu().numpy()

    def _pixels(self, frame: ndarray) -> Tensor:
        """As the model takes a frame: 1 3 side side, whatever its aspect."""
        image = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].to(self.device)
        sized = functional.interpolate(image, (self.side,) * 2, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (MEAN, STD))
        return (sized - mean) / std


class Sam2Tracker:
    """A thing followed by the model, from its mask on a frame."""

    def __init__(self, sam2: Sam2, frame: ndarray, inside: ndarray):
        self.sam2, self.session, self.next = sam2, sam2.session(), 0
        config = sam2.model.config
        self.remembers = max(config.num_maskmem, config.max_object_pointers_in_encoder)
        self.mark(frame, inside)

    def mark(self, frame: ndarray, inside: ndarray) -> None:
        """Another mask that is given; the model remembers all of them."""
        side = self.sam2.side
        share = cv2.resize(inside.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
        mask = torch.from_numpy((share >= 0.5).astype(np.float32))[None, None]
        self.session.add_mask_inputs(self.session.obj_id_to_idx(1), self.next, mask)
        self.session.obj_with_new_inputs = [1]
        self.follow(frame)

    def follow(self, frame: ndarray) -> ndarray:
        seen = self.sam2.run(self.session, self.next, frame)
        self._forget()
        self.next += 1
        return seen

    def _forget(self) -> None:
        """What the model will not look at again: a session would keep every frame."""
        self.session.processed_frames.clear()
        self.session.mask_inputs_per_obj[0].clear()
        old = self.next - self.remembers
        for kept in (
            self.session.output_dict_per_obj[0]["non_cond_frame_outputs"],
            self.session.frames_tracked_per_obj[0],
        ):
            for number in [n for n in kept if n < old]:
                del kept[number]


def load(weights: str | None = None, device: str = "auto") -> Sam2:
    """SAM 2 from a folder or the local hub cache. Raises Missing with the command that brings it, ValueError for a
    folder of something else.
    """
    from transformers import Sam2VideoModel

    from ..weights import pick_device

    return Sam2(load_model(Sam2VideoModel, "sam2_video", weights or WEIGHTS), pick_device(device))


def load_model(kind: type, named: str, place: str):
    """A transformers model of a kind, all of whose weights are there. named: its model_type."""
    folder = find_folder(place)
    from transformers import AutoConfig

    with silence_transformers():
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type != named:
            raise UserError(f"{place} holds {config.model_type}, not {named}")
        try:
            model, about = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except OSError as error:
            raise UserError(
                f"{place} has no weights in safetensors, which alone are read"
            ) from error
    if about["missing_keys"]:
        lacking = ", ".join(sorted(about["missing_keys"])[:3])
        raise UserError(f"{place} lacks weights of {named}: {lacking}")
    return model
