"""Track an object as the front one of two layers, and decide for each pixel of the next frame which layer it shows.

Each layer remembers how it last looked, also where it is hidden, and moves on with its own flow. A pixel shows the
object if the object's memory and colours explain it better than the background's. Where a pixel shows the background,
the object is not there; where it shows neither, something has passed in front and the object stays in memory, so that
the tracker survives a crossing. Frames are `H W 3` float32 in [0, 1], all maps `H W` float32 in [0, 1].
"""

import cv2
import numpy as np
from numpy import ndarray

from . import optical_flow
from .colour_model import ColourModel
from .grabcut import disc_kernel
from .layer_motion import GlobalMotion, backward_flow

MIN_NOISE = 0.02  # smallest standard deviation of a pixel's value from a layer's memory
TRUST_RANGE = (0.5, 0.97)  # bounds of the trust in a memory, which follows how often it was right
MAX_COLOUR_LOG_ODDS = 6.0  # the most that a pixel's own colour counts, in nats
FLOW_LOG_ODDS = 2.5  # how much the flow counts that leads back to the object, or does not, in nats
APPEARANCE_PRIOR = 0.02  # probability that the object appears where it was not, near it
UNCOVERED_PRIOR = 0.004  # the same where the background was never seen: a moving object uncovers it
REACH = 0.15  # how far the object may be from its expected place, as a share of its breadth
PAIRWISE_LOG_ODDS = 2.5  # how strongly neighbours of one colour agree, in nats
MEAN_FIELD_ROUNDS = 12
BACKGROUND_AGE = 4  # frames after which what passes in front counts as background
PRESENCE_DECAY = 0.6  # share of the presence that a frame removes where it shows the background
LOST_SHARE = 0.03  # of the object's area: with less of it visible, the object is lost
HIDDEN_RETENTION = 0.985  # share of the presence that a hidden pixel keeps from frame to frame


class TwoLayerTracker:
    """Tracks an object from its mask on a frame: call `follow` for frame after frame."""

    def __init__(self, frame: ndarray, inside: ndarray):
        """inside: the object's mask, boolean H W."""
        weight = inside.astype(np.float32)
        self.object_colours = ColourModel(frame, weight)
        self.background_colours = ColourModel(frame, 1 - weight)
        self._start(frame, inside)

    def _start(self, frame: ndarray, inside: ndarray) -> None:
        self.frame, self.area = frame, float(inside.sum())
        self.visibility = inside.astype(np.float32)  # probability that a pixel shows the object
        self.presence = self.visibility.copy()  # probability that it is there, visible or hidden
        self.object_memory = frame.copy()  # the object as it last looked
        self.background_memory = frame.copy()
        edge = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8))
        self.background_known = (edge == 0).astype(np.float32)  # where the background was seen
        self.background_changed = np.zeros_like(self.visibility)  # for how many frames
        self.object_motion = GlobalMotion.identity()
        self.background_motion = GlobalMotion.identity()
        self.noise, self.trust = np.full(2, 0.03), np.full(2, 0.7)  # of object and background
        self.frames_lost = 0

    def mark(self, frame: ndarray, inside: ndarray) -> None:
        """Restart from another mask of the object, boolean H W. The colour models are updated, not replaced."""
        weight = inside.astype(np.float32)
        self.object_colours.mark(frame, weight)
        self.background_colours.mark(frame, 1 - weight)
        self._start(frame, inside)

    def follow(self, frame: ndarray) -> ndarray:
        """Return the probability that each pixel of the next frame shows the object."""
        forward = optical_flow.sharp_dis(self.frame, frame)
        backward = optical_flow.sharp_dis(frame, self.frame)
        entering, was_visible = self._move_layers(forward)
        memories = (self.object_memory, self.background_memory)
        errors = np.stack([_squared_norm(frame - memory) for memory in memories])
        self._update_trust(errors, was_visible)
        of_object, of_rest, of_background = self._likelihoods(frame, errors, entering)
        log_odds = self._log_odds(of_object, of_rest) + self._flow_evidence(
            frame, forward, backward
        )
        log_odds += self._prior_log_odds()
        visibility = self._near_object(
            smooth_odds(log_odds.astype(np.float32), frame, self._search_box())
        )
        self._remember(frame, visibility, was_visible, errors, of_background / of_rest)
        is_lost = (visibility > 0.5).sum() < LOST_SHARE * self.area
        self.frames_lost = self.frames_lost + 1 if is_lost else 0
        if self.frames_lost > 1:
            self._search(frame, of_rest)
        return self.visibility

    @staticmethod
    def _log_odds(of_object: ndarray, of_rest: ndarray) -> ndarray:
        log_odds = np.log(of_object) - np.log(of_rest)
        return np.clip(log_odds, -MAX_COLOUR_LOG_ODDS, MAX_COLOUR_LOG_ODDS)

    def _prior_log_odds(self) -> ndarray:
        """Return the log odds, before its colour counts, that a pixel shows the object."""
        lowest = np.where(self.background_known > 0.5, APPEARANCE_PRIOR, UNCOVERED_PRIOR)
        blurred = cv2.GaussianBlur(self.presence, (0, 0), 1)
        expected = np.clip(blurred, lowest, 1 - APPEARANCE_PRIOR)
        return np.log(expected / (1 - expected))

    def _move_layers(self, forward: ndarray) -> tuple[ndarray, ndarray]:
        """Move both layers on by the flow to the next frame.

        Return where the object may have entered from beyond the frame, boolean, and how visible the object was before
        at the place that each pixel now shows.
        """
        side = max(4.0, np.sqrt(self.area))
        background_weight = 1 - np.maximum(self.visibility, self.presence)
        object_flow = backward_flow(
            forward, self.visibility, self.object_motion, max(2.0, side / 5)
        )
        background_flow = backward_flow(
            forward, background_weight, self.background_motion, max(4.0, side / 3)
        )
        warp = optical_flow.warp
        self.object_memory = warp(self.object_memory, object_flow)
        self.background_memory = warp(self.background_memory, background_flow)
        entering = ~optical_flow.ends_in_frame(object_flow)
        presence = warp(self.presence, object_flow)
        self.presence = np.where(entering, np.minimum(presence, 0.5), presence)
        self.background_known = warp(self.background_known, background_flow)
        self.background_changed = warp(self.background_changed, background_flow)
        return entering, np.where(entering, 0.5, warp(self.visibility, object_flow))

    def _update_trust(self, errors: ndarray, was_visible: ndarray) -> None:
        """Measure how right both memories are at pixels that certainly show one of the layers."""
        near = cv2.dilate((self.presence > 0.05).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        certain = (
            (self.presence > 0.9) & (was_visible > 0.9),
            (self.presence < 0.05) & (self.background_known > 0.9) & near,
        )
        for i, (error, where) in enumerate(zip(errors, certain, strict=True)):
            if where.sum() > 20:
                deviation = np.sqrt(np.median(error[where]) / 2.4)  # of three channels
                self.noise[i] = max(MIN_NOISE, deviation)
                accuracy = np.mean(error[where] < 12 * self.noise[i] ** 2) ** 2
                self.trust[i] += 0.3 * (np.clip(accuracy, *TRUST_RANGE) - self.trust[i])

    def _likelihoods(
        self, frame: ndarray, errors: ndarray, entering: ndarray
    ) -> tuple[ndarray, ndarray, ndarray]:
        """Return the density of each pixel's colour if it shows the object, and if it does not.

        The third result is the background memory's part of the second.
        """
        of_memories = (_normal_density(e, n) for e, n in zip(errors, self.noise, strict=True))
        of_object_memory, of_background_memory = of_memories
        weight = self.trust[0] * np.clip(2 * self.presence - 0.5, 0, 1) * ~entering
        colours = 0.95 * self.object_colours.density(frame) + 0.05
        of_object = weight * of_object_memory + (1 - weight) * colours
        weight = self.trust[1] * self.background_known
        of_background = weight * of_background_memory
        colours = 0.8 * self.background_colours.density(frame) + 0.2
        return of_object, of_background + (1 - weight) * colours, of_background

    def _flow_evidence(self, frame: ndarray, forward: ndarray, backward: ndarray) -> ndarray:
        """Return log odds, in nats, from whether the flow of a pixel leads back to the object."""
        error = _squared_norm(frame - optical_flow.warp(self.frame, backward))
        is_reliable = ~optical_flow.occlusion(backward, forward) & (
            error < 9 * self.noise.max() ** 2
        )
        return FLOW_LOG_ODDS * is_reliable * (2 * optical_flow.warp(self.visibility, backward) - 1)

    def _neighbourhood(self) -> ndarray:
        """Return where the object may be, uint8 H W, 0 or 1."""
        radius = 2 + REACH * np.sqrt(self.area)
        return cv2.dilate((self.presence > 0.3).astype(np.uint8), disc_kernel(radius))

    def _search_box(self) -> tuple[slice, slice]:
        x, y, width, height = cv2.boundingRect(self._neighbourhood())
        return slice(y, y + height), slice(x, x + width)

    def _near_object(self, visibility: ndarray) -> ndarray:
        return visibility * self._neighbourhood()

    def _remember(
        self,
        frame: ndarray,
        visibility: ndarray,
        was_visible: ndarray,
        errors: ndarray,
        background_share: ndarray,
    ) -> None:
        """Update memories, presence, colour models and area.

        background_share: probability that a pixel that does not show the object shows the remembered background.
        """
        on = visibility > 0.5
        is_similar = errors < 9 * self.noise[:, None, None] ** 2
        is_new = (self.presence < 0.3) | (on & (was_visible < 0.3) & ~is_similar[0])
        rate = np.where(is_new, 1, 0.5) * visibility
        self.object_memory += rate[..., None] * (frame - self.object_memory)
        cleared = PRESENCE_DECAY * background_share * (1 - visibility)
        hidden = HIDDEN_RETENTION * self.presence * (1 - cleared)
        self.presence = np.where(on, (1 + self.presence) / 2, hidden).astype(np.float32)
        self._remember_background(frame, on, is_similar[1])
        if on.sum() > 0.3 * self.area:
            self.object_colours.learn(frame, visibility * (visibility > 0.8))
            self.background_colours.learn(frame, (1 - visibility) * (visibility < 0.2))
        if on.sum() > 0.5 * self.area:
            self.area += 0.1 * (on.sum() - self.area)
        self.frame, self.visibility = frame, visibility

    def _remember_background(self, frame: ndarray, on: ndarray, is_similar: ndarray) -> None:
        off = cv2.dilate(on.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
        known = self.background_known > 0.5
        age = np.where(known & ~is_similar, self.background_changed + 1, 0)
        age = np.where(off, age, self.background_changed)
        is_new = off & (~known | (age >= BACKGROUND_AGE))
        rate = np.where(is_new, 1, np.where(off & is_similar, 0.5, 0)).astype(np.float32)
        self.background_memory += rate[..., None] * (frame - self.background_memory)
        self.background_known = np.where(is_new, 1, self.background_known).astype(np.float32)
        self.background_changed = np.where(is_new, 0, age).astype(np.float32)

    def _search(self, frame: ndarray, of_rest: ndarray) -> None:
        """Find a lost object again: the largest part of the frame with its colours."""
        log_odds = np.log(0.95 * self.object_colours.density(frame) + 0.05) - np.log(of_rest + 0.05)
        everywhere = np.s_[: frame.shape[0], : frame.shape[1]]
        clipped = np.clip(log_odds, -4, 4).astype(np.float32) - 1
        candidates = (smooth_odds(clipped, frame, everywhere) > 0.5).astype(np.uint8)
        count, components, statistics, _ = cv2.connectedComponentsWithStats(candidates)
        if count < 2:
            return
        largest = 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))
        if statistics[largest, cv2.CC_STAT_AREA] < 2 * LOST_SHARE * self.area:
            return
        self.visibility = (components == largest).astype(np.float32)
        self.presence, self.object_memory = self.visibility.copy(), frame.copy()
        self.object_motion, self.frames_lost = GlobalMotion.identity(), 0


def _squared_norm(difference: ndarray) -> ndarray:
    return (difference**2).sum(-1)


def _normal_density(squared: ndarray, deviation: float) -> ndarray:
    """Return the density of three independent normal values at this squared distance."""
    scaled = np.minimum(squared / (2 * deviation**2), 40)
    return np.exp(-scaled) / ((2 * np.pi) ** 1.5 * deviation**3)


def smooth_odds(log_odds: ndarray, frame: ndarray, where: tuple[slice, slice]) -> ndarray:
    """Return probabilities of log odds H W after neighbours of similar colour agree; 0 outside the part `where`.

    Mean field of a contrast-sensitive Potts model.
    """
    probability = np.zeros(log_odds.shape, np.float32)
    log_odds, frame = log_odds[where], frame[where]
    if not log_odds.size:
        return probability
    across, down = (_squared_norm(np.diff(frame, axis=axis)) for axis in (1, 0))
    mean_contrast = (
        float(across.mean() if across.size else 0) + float(down.mean() if down.size else 0) + 1e-5
    )
    across, down = (PAIRWISE_LOG_ODDS * np.exp(-step / mean_contrast) for step in (across, down))
    spins = np.tanh(log_odds / 2)
    for _ in range(MEAN_FIELD_ROUNDS):
        total = log_odds.copy()
        total[:, :-1] += across * spins[:, 1:]
        total[:, 1:] += across * spins[:, :-1]
        total[:-1] += down * spins[1:]
        total[1:] += down * spins[:-1]
        spins = np.tanh(total / 2)
    probability[where] = (1 + spins) / 2
    return probability
