"""Segment an object with SAM 2 (Ravi et al., arXiv:2408.00714) through transformers, and track it through a clip.

The model sees one frame at a time, and what it remembers of a clip is bounded, whatever the clip's length. Only
folders and the local hub cache are read, and only safetensors.
"""

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional

from ...base.errors import UserError
from ...media.marks import Marks, segment_marks
from ...media.masks import Box
from ...media.propagation import TrackerFactory
from ..hub import find_folder, silence_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Sam2VideoModel
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

WEIGHTS = "facebook/sam2.1-hiera-tiny"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of all published sizes
INSIDE, OUTSIDE, CORNERS = 1, 0, (2, 3)  # labels of the model's prompts


class Sam2:
    """A loaded model. Frames are H W 3."""

    def __init__(self, model: "Sam2VideoModel", device: torch.device):
        self.model = model.eval().requires_grad_(False)
        nn.Module.to(self.model, device)  # transformers types its own `to` wrongly
        self.device = device
        size = model.config.image_size
        self.side = size if isinstance(size, int) else size[0]

    def tracker_factory(self) -> TrackerFactory:
        """Return how `media.propagation` creates a tracker of this model."""
        return TrackerFactory(lambda frame, inside: Sam2Tracker(self, frame, inside), self.side)

    def segment(self, frame: ndarray, marks: Marks) -> ndarray:
        """Return the mask, boolean H W, of what is marked on a frame uint8 H W 3.

        The model segments boxes and points. A painted picture and exact marks are segmented without it.
        """
        if marks.brush is not None or marks.is_exact:
            return segment_marks(frame, marks)
        mask = np.zeros(frame.shape[:2], bool)
        for box in marks.boxes or (None,):
            session = self.new_session()
            session.add_point_inputs(
                session.obj_id_to_idx(1), 0, self._prompt(marks, box, frame.shape)
            )
            session.obj_with_new_inputs = [1]
            mask |= self.predict(session, 0, frame.astype(np.float32) / 255) > 0.5
        return mask

    def new_session(self) -> "Sam2VideoInferenceSession":
        """Return the model's empty memory of a clip."""
        from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

        return Sam2VideoInferenceSession(
            inference_device=self.device,
            inference_state_device=self.device,
            video_storage_device=self.device,
            dtype=torch.float32,
        )

    def _prompt(self, marks: Marks, box: Box | None, shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Return points and labels, 1 1 n 2 and 1 1 n, in the model's own pixels.

        A box comes first, as two corners. Points inside the object but not in the box belong to another box.
        """
        inside = list(marks.points)
        points, labels = [], []
        if box is not None:
            x, y, width, height = box
            inside = [p for p in inside if x <= p[0] < x + width and y <= p[1] < y + height]
            points, labels = [(x, y), (x + width, y + height)], list(CORNERS)
        points += [*inside, *marks.negative_points]
        labels += [INSIDE] * len(inside) + [OUTSIDE] * len(marks.negative_points)
        scale = torch.tensor([self.side / shape[1], self.side / shape[0]])
        coordinates = torch.tensor(points, dtype=torch.float32) * scale
        return {
            "point_coords": coordinates[None, None],
            "point_labels": torch.tensor(labels, dtype=torch.int32)[None, None],
        }

    @torch.no_grad()
    def predict(self, session: "Sam2VideoInferenceSession", number: int, frame: ndarray) -> ndarray:
        """Return the probability that each pixel of a session's frame is the object, float32 H W.

        number: of the frame; frame: in [0, 1].
        """
        output = self.model(session, frame_idx=number, frame=self._pixels(frame))
        size = frame.shape[:2]
        logits = functional.interpolate(output.pred_masks.float(), size, mode="bilinear")
        return logits[0, 0].sigmoid().cpu().numpy()

    def _pixels(self, frame: ndarray) -> Tensor:
        """Return a frame as the model takes it, 1 3 side side, whatever its aspect ratio."""
        image = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].to(self.device)
        sized = functional.interpolate(image, (self.side,) * 2, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (MEAN, STD))
        return (sized - mean) / std


class Sam2Tracker:
    """Tracks an object with the model, from its mask on a frame."""

    def __init__(self, sam2: Sam2, frame: ndarray, inside: ndarray):
        """inside: the object's mask, boolean H W."""
        self.sam2, self.session, self.next_frame = sam2, sam2.new_session(), 0
        config = sam2.model.config
        self.memory_frames = max(config.num_maskmem, config.max_object_pointers_in_encoder)
        self.mark(frame, inside)

    def mark(self, frame: ndarray, inside: ndarray) -> None:
        """Add another mask of the object. The model remembers all of them."""
        side = self.sam2.side
        share = cv2.resize(inside.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
        mask = torch.from_numpy((share >= 0.5).astype(np.float32))[None, None]
        self.session.add_mask_inputs(self.session.obj_id_to_idx(1), self.next_frame, mask)
        self.session.obj_with_new_inputs = [1]
        self.follow(frame)

    def follow(self, frame: ndarray) -> ndarray:
        """Return the probability that each pixel of the next frame is the object, float32 H W."""
        probability = self.sam2.predict(self.session, self.next_frame, frame)
        self._drop_old_frames()
        self.next_frame += 1
        return probability

    def _drop_old_frames(self) -> None:
        """Drop what the model will not read again. Otherwise a session keeps every frame."""
        assert self.session.processed_frames is not None  # the model has just seen a frame
        self.session.processed_frames.clear()
        self.session.mask_inputs_per_obj[0].clear()
        oldest = self.next_frame - self.memory_frames
        memories: tuple[MutableMapping[int, Any], ...] = (
            self.session.output_dict_per_obj[0]["non_cond_frame_outputs"],
            self.session.frames_tracked_per_obj[0],
        )
        for memory in memories:
            for number in [n for n in memory if n < oldest]:
                del memory[number]


def load(weights: str | None = None, device: str = "auto") -> Sam2:
    """Load SAM 2 from a folder or the local hub cache.

    Raise MissingDependencyError, with the command that downloads it, if it is not there, and UserError if the folder
    holds another model.
    """
    from transformers import Sam2VideoModel

    from ..devices import pick_device

    return Sam2(load_model(Sam2VideoModel, "sam2_video", weights or WEIGHTS), pick_device(device))


def load_model(kind: "type[PreTrainedModel]", model_type: str, place: str):
    """Load a transformers model, and check that all its weights are there.

    place: a folder or a hub id. Raise UserError if it holds another type, no safetensors, or not all weights.
    """
    folder = find_folder(place)
    from transformers import AutoConfig

    with silence_transformers():
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type != model_type:
            raise UserError(f"{place} holds {config.model_type}, not {model_type}")
        try:
            loaded: Any = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except OSError as error:
            raise UserError(
                f"{place} has no weights in safetensors", "convert them: no other format is read"
            ) from error
    model, report = loaded  # with output_loading_info, a pair
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise UserError(
            f"{place} has no weights for {missing} of {model_type}", "download it again"
        )
    return model
