"""A clip as two layers, a marked thing and what lies behind it: which of the two each pixel of the next frame shows.

Each layer is remembered as it was last seen, also where it is hidden, and moves on with its own flow. A pixel shows the
thing where the thing's memory and colours explain it better than the background's. Where it shows the background, the
thing is not there; where it shows neither, something has passed in front, and the thing is kept. So a crossing is
survived. Frames are `H W 3` float32 in [0, 1], all maps `H W` float32 in [0, 1].
"""

import cv2
import numpy as np
from numpy import ndarray

from . import optical_flow
from .colour_model import ColourModel
from .grabcut import disc_kernel
from .layer_motion import GlobalMotion, backward_flow

NOISE = 0.02  # the least deviation of a pixel's value from what is remembered
TRUST = (0.5, 0.97)  # how far a memory is trusted: as often as it was right of late, within these
ODDS = 6.0  # the most that a pixel's own colour says, in nats
FOLLOWED = 2.5  # what it says where flow came from, in nats
DOUBT = 0.02  # that the thing is where it was not, beside it
UNCOVERED = 0.004  # the same where the background was never seen: a thing that goes on uncovers it
REACH = 0.15  # of the thing's breadth: how far from where it was expected it may be
TIES = 2.5  # how much neighbours of one colour agree, in nats
ROUNDS = 12  # in which they do
AGAIN = 4  # frames after which what passes is taken for the background
EMPTY = 0.6  # of the belief that the thing is there, what goes each frame that shows the background instead
LEFT = 0.03  # of its area: less of a thing is none


class TwoLayerTracker:
    """`follow` frame after frame."""

    def __init__(self, frame: ndarray, inside: ndarray):
        """inside: the marked thing, boolean H W."""
        weight = inside.astype(np.float32)
        self.thing, self.rest = ColourModel(frame, weight), ColourModel(frame, 1 - weight)
        self._begin(frame, inside)

    def _begin(self, frame: ndarray, inside: ndarray) -> None:
        self.frame, self.area = frame, float(inside.sum())
        self.seen = inside.astype(np.float32)  # how surely the thing is seen at a pixel
        self.there = self.seen.copy()  # how surely it is there, seen or hidden
        self.look = frame.copy()  # the thing as it was last seen
        self.behind = frame.copy()  # the background as it was last seen
        edge = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8))
        self.known = (edge == 0).astype(np.float32)  # where it was seen at all
        self.other = np.zeros_like(self.seen)  # for how many frames it looks otherwise
        self.motion, self.behind_motion = GlobalMotion.still(), GlobalMotion.still()
        self.noise, self.trust = np.full(2, 0.03), np.full(2, 0.7)  # of the two memories
        self.gone = 0  # frames since the thing was last seen

    def mark(self, frame: ndarray, inside: ndarray) -> None:
        """Begin anew with the next mark of a user; the colours that are known stay known."""
        weight = inside.astype(np.float32)
        self.thing.mark(frame, weight)
        self.rest.mark(frame, 1 - weight)
        self._begin(frame, inside)

    def follow(self, frame: ndarray) -> ndarray:
        """The next frame's map of how surely the thing is seen."""
        ahead, back = optical_flow.sharp_dis(self.frame, frame), optical_flow.sharp_dis(frame, self.frame)
        entered, was_seen = self._advance(ahead)
        errors = np.stack([_squared(frame - memory) for memory in (self.look, self.behind)])
        self._judge(errors, was_seen)
        own, rest, behind = self._densities(frame, errors, entered)
        odds = np.clip(np.log(own) - np.log(rest), -ODDS, ODDS) + self._followed(frame, ahead, back)
        least = np.where(self.known > 0.5, DOUBT, UNCOVERED)
        expected = np.clip(cv2.GaussianBlur(self.there, (0, 0), 1), least, 1 - DOUBT)
        odds += np.log(expected / (1 - expected))
        seen = self._near(smooth_odds(odds.astype(np.float32), frame, self._box()))
        self._remember(frame, seen, was_seen, errors, behind / rest)
        self.gone = self.gone + 1 if (seen > 0.5).sum() < LEFT * self.area else 0
        if self.gone > 1:
            self._search(frame, rest)
        return self.seen

    def _advance(self, ahead: ndarray) -> tuple[ndarray, ndarray]:
        """Move both layers on. Returns where the thing may have come in from beyond the frame, boolean, and how surely
        it was seen before at what each pixel now shows of it.
        """
        side = max(4.0, np.sqrt(self.area))
        rest = 1 - np.maximum(self.seen, self.there)
        thing = backward_flow(ahead, self.seen, self.motion, max(2.0, side / 5))
        behind = backward_flow(ahead, rest, self.behind_motion, max(4.0, side / 3))
        self.look, self.behind = optical_flow.warp(self.look, thing), optical_flow.warp(self.behind, behind)
        entered = ~optical_flow.ends_in_frame(thing)
        there = optical_flow.warp(self.there, thing)
        self.there = np.where(entered, np.minimum(there, 0.5), there)
        self.known, self.other = (optical_flow.warp(m, behind) for m in (self.known, self.other))
        return entered, np.where(entered, 0.5, optical_flow.warp(self.seen, thing))

    def _judge(self, errors: ndarray, was_seen: ndarray) -> None:
        """How right both memories are, where there is no doubt which of the two is seen."""
        beside = cv2.dilate((self.there > 0.05).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        sure = (
            (self.there > 0.9) & (was_seen > 0.9),
            (self.there < 0.05) & (self.known > 0.9) & beside,
        )
        for i, (error, where) in enumerate(zip(errors, sure, strict=True)):
            if where.sum() > 20:
                self.noise[i] = max(NOISE, np.sqrt(np.median(error[where]) / 2.4))  # of 3 channels
                right = np.mean(error[where] < 12 * self.noise[i] ** 2) ** 2
                self.trust[i] += 0.3 * (np.clip(right, *TRUST) - self.trust[i])

    def _densities(
        self, frame: ndarray, errors: ndarray, entered: ndarray
    ) -> tuple[ndarray, ndarray, ndarray]:
        """Of each pixel's colour: if it is the thing's, if it is not, and of the latter the background's own part."""
        as_seen, as_behind = (_normal(e, n) for e, n in zip(errors, self.noise, strict=True))
        sure = self.trust[0] * np.clip(2 * self.there - 0.5, 0, 1) * ~entered
        own = sure * as_seen + (1 - sure) * (0.95 * self.thing.density(frame) + 0.05)
        sure = self.trust[1] * self.known
        behind = sure * as_behind
        return own, behind + (1 - sure) * (0.8 * self.rest.density(frame) + 0.2), behind

    def _followed(self, frame: ndarray, ahead: ndarray, back: ndarray) -> ndarray:
        """What is known of a pixel's past, in nats: whether it was seen as the thing, where flow leads back to it."""
        error = _squared(frame - optical_flow.warp(self.frame, back))
        fine = ~optical_flow.occlusion(back, ahead) & (error < 9 * self.noise.max() ** 2)
        return FOLLOWED * fine * (2 * optical_flow.warp(self.seen, back) - 1)

    def _near_where(self) -> ndarray:
        radius = 2 + REACH * np.sqrt(self.area)
        return cv2.dilate((self.there > 0.3).astype(np.uint8), disc_kernel(radius))

    def _box(self) -> tuple[slice, slice]:
        x, y, width, height = cv2.boundingRect(self._near_where())
        return slice(y, y + height), slice(x, x + width)

    def _near(self, seen: ndarray) -> ndarray:
        return seen * self._near_where()

    def _remember(
        self, frame: ndarray, seen: ndarray, was_seen: ndarray, errors: ndarray, shows: ndarray
    ) -> None:
        """shows: how surely a pixel that is not the thing's shows the background itself."""
        on, like = seen > 0.5, errors < 9 * self.noise[:, None, None] ** 2
        fresh = (self.there < 0.3) | (on & (was_seen < 0.3) & ~like[0])
        self.look += (np.where(fresh, 1, 0.5) * seen)[..., None] * (frame - self.look)
        hidden = 0.985 * self.there * (1 - EMPTY * shows * (1 - seen))
        self.there = np.where(on, (1 + self.there) / 2, hidden).astype(np.float32)
        self._remember_behind(frame, on, like[1])
        if on.sum() > 0.3 * self.area:
            self.thing.learn(frame, seen * (seen > 0.8))
            self.rest.learn(frame, (1 - seen) * (seen < 0.2))
        if on.sum() > 0.5 * self.area:
            self.area += 0.1 * (on.sum() - self.area)
        self.frame, self.seen = frame, seen

    def _remember_behind(self, frame: ndarray, on: ndarray, like: ndarray) -> None:
        off = cv2.dilate(on.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0
        known = self.known > 0.5
        self.other = np.where(off, np.where(known & ~like, self.other + 1, 0), self.other)
        fresh = off & (~known | (self.other >= AGAIN))
        share = np.where(fresh, 1, np.where(off & like, 0.5, 0)).astype(np.float32)
        self.behind += share[..., None] * (frame - self.behind)
        self.known = np.where(fresh, 1, self.known).astype(np.float32)
        self.other = np.where(fresh, 0, self.other).astype(np.float32)

    def _search(self, frame: ndarray, rest: ndarray) -> None:
        """Find a thing again that was not seen for a while: the largest part of the frame that has its colours."""
        odds = np.log(0.95 * self.thing.density(frame) + 0.05) - np.log(rest + 0.05)
        whole = np.s_[: frame.shape[0], : frame.shape[1]]
        found = smooth_odds(np.clip(odds, -4, 4).astype(np.float32) - 1, frame, whole) > 0.5
        count, parts, about, _ = cv2.connectedComponentsWithStats(found.astype(np.uint8))
        if count < 2:
            return
        largest = 1 + int(np.argmax(about[1:, cv2.CC_STAT_AREA]))
        if about[largest, cv2.CC_STAT_AREA] < 2 * LEFT * self.area:
            return
        self.seen = (parts == largest).astype(np.float32)
        self.there, self.look = self.seen.copy(), frame.copy()
        self.motion, self.gone = GlobalMotion.still(), 0


def _squared(difference: ndarray) -> ndarray:
    return (difference**2).sum(-1)


def _normal(squared: ndarray, deviation: float) -> ndarray:
    """The density of three independent values at this squared distance."""
    scaled = np.minimum(squared / (2 * deviation**2), 40)
    return np.exp(-scaled) / ((2 * np.pi) ** 1.5 * deviation**3)


def smooth_odds(odds: ndarray, frame: ndarray, where: tuple[slice, slice]) -> ndarray:
    """Probabilities of log odds H W once neighbours of like colour agree (mean field of a contrast-sensitive Potts
    model); 0 outside the part `where`.
    """
    whole = np.zeros(odds.shape, np.float32)
    odds, frame = odds[where], frame[where]
    if not odds.size:
        return whole
    across, down = (_squared(np.diff(frame, axis=axis)) for axis in (1, 0))
    usual = (
        float(across.mean() if across.size else 0) + float(down.mean() if down.size else 0) + 1e-5
    )
    across, down = (TIES * np.exp(-step / usual) for step in (across, down))
    signs = np.tanh(odds / 2)
    for _ in range(ROUNDS):
        pulled = odds.copy()
        pulled[:, :-1] += across * signs[:, 1:]
        pulled[:, 1:] += across * signs[:, :-1]
        pulled[:-1] += down * signs[1:]
        pulled[1:] += down * signs[:-1]
        signs = np.tanh(pulled / 2)
    whole[where] = (1 + signs) / 2
    return whole
