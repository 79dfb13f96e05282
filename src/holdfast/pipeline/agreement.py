"""Whether a model takes an edited clip for what the target prompt says: its own judgement, which may be wrong.

A result is noised, and the model predicts the velocity back under each prompt. Between the two predictions `v_src` and
`v_tgt` lies a line, and the true velocity `u = noise - clean` falls somewhere along it:

    score = sum(|v_src - u|^2 - |v_tgt - u|^2) / sum(|v_tgt - v_src|^2), over a few noise levels,

is 1 where it falls on the target's prediction, -1 on the source's, 0 half way. docs/choosing.md says how often it is
right.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.base import Conditioning
    from ..sampling.field import VelocityField

SIGMAS = (0.7, 0.8, 0.9)  # chosen on tuning scenes; lower ones tell less
EVALUATIONS = 2 * len(SIGMAS)
NOISE_STEP = (
    10**6
)  # noise of steps that no edit reaches: the result may fit the edit's own noise by chance
CLEARLY, WEAKLY, NOT = "clearly", "weakly", "not"
MIN_RELIABILITY = 0.9  # a word that is right less often is called a weak hint


@dataclass(frozen=True)
class Agreement:
    """A judgement. words: "clearly", "weakly" or "not"; empty where the model's scores were not calibrated."""

    score: float
    words: str = ""
    hint: str = ""  # how far the words can be trusted

    def describe(self) -> dict[str, Any]:
        return asdict(self)


def can_judge(about: Any) -> bool:
    """Whether a model, loaded or not, is driven by words alone."""
    return "text" in about.capabilities and "image" not in about.capabilities


def score(
    field: "VelocityField",
    z: "Tensor",
    source: "Conditioning",
    target: "Conditioning",
    frames: int,
    seed: int,
) -> float | None:
    """Return the score of a result z, 1 c f h w; None where the model makes no difference between the prompts.

    frames: how many latent frames are looked at, from the first on.
    """
    from ..sampling.maths import add_noise, keyed_noise

    window = z[:, :, :frames]
    nearer = apart = 0.0
    for index, sigma in enumerate(SIGMAS):
        eps = keyed_noise(window, seed, NOISE_STEP + index)
        noisy, u = add_noise(window, sigma, eps), eps - window
        v_src = field.velocity(noisy, sigma, source, branch="src+")
        v_tgt = field.velocity(noisy, sigma, target, branch="tgt+")
        nearer += (_square(v_src - u) - _square(v_tgt - u)).item()
        apart += _square(v_tgt - v_src).item()
    return nearer / apart if apart else None


def _square(difference: "Tensor") -> "Tensor":
    return difference.float().square().sum()


def judge(value: float, calibration: Mapping[str, Any], is_usual: bool = True) -> Agreement:
    """Return a score in words, by the thresholds that were measured for the model.

    is_usual: whether the clip and the prompts are of the kind that they were measured on; else no word is given.
    """
    if not calibration:
        return Agreement(value, hint="not calibrated for this model")
    if not is_usual:
        return Agreement(value, hint="never measured on such a clip or such words")
    word = WEAKLY
    if value >= calibration[CLEARLY]["from"]:
        word = CLEARLY
    elif value < calibration[NOT]["below"]:
        word = NOT
    return Agreement(value, word, hint_for(word, calibration[word]))


def hint_for(word: str, measured: Mapping[str, Any]) -> str:
    """Say of how many scenes called by a word it was true."""
    succeeded, count = measured["succeeded"], measured["scenes"]
    if not count:
        return "no held-out scene was called so"
    if word == WEAKLY:
        return f"{succeeded} of {count} held-out scenes called so had succeeded, by flowedit without a mask"
    right = count - succeeded if word == NOT else succeeded
    said = f"right for {right} of {count} held-out scenes called so, by flowedit without a mask"
    return said if right / count >= MIN_RELIABILITY else f"a weak hint: {said}"


def describe_agreement(found: Mapping[str, Any]) -> str:
    """A judgement of a manifest in a line."""
    if not found["words"]:
        return (
            f"the model's own score of the result is {found['score']:+.2f}: above 0 it looks more like "
            f"the target to the model than like the source ({found['hint']})"
        )
    hint = f" ({found['hint']})" if found["hint"] else ""
    return f"the model sees the target in the result: {found['words']}{hint}"
