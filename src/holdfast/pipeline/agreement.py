"""Score how well an edited clip fits the target prompt, in the model's own opinion, which can be wrong.

Noise is added to the result, and the model predicts the velocity under each prompt. The true velocity
`u = noise - clean` is projected onto the line between the two predictions `v_src` and `v_tgt`:

    score = sum(|v_src - u|^2 - |v_tgt - u|^2) / sum(|v_tgt - v_src|^2), over a few noise levels.

It is 1 at the target's prediction, -1 at the source's, and 0 half-way. docs/choosing.md says how often it is right.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.base import Backbone, Conditioning
    from ..models.registry import BackboneInfo
    from ..sampling.field import VelocityField

SIGMAS = (0.7, 0.8, 0.9)  # chosen on tuning scenes; lower noise levels discriminate less
EVALUATIONS = 2 * len(SIGMAS)
# Noise of steps that no edit reaches, because a result may fit the noise of its own edit by chance.
NOISE_STEP = 10**6
CLEARLY, WEAKLY, NOT = "clearly", "weakly", "not"
MIN_RELIABILITY = 0.9  # a verdict that is right less often is called a weak hint


@dataclass(frozen=True)
class Agreement:
    """A score with its verdict.

    words: "clearly", "weakly" or "not"; empty where the model's scores are not calibrated. hint: how reliable the
    verdict is.
    """

    score: float
    words: str = ""
    hint: str = ""

    def describe(self) -> dict[str, Any]:
        """Return the entry of a manifest."""
        return asdict(self)


def can_judge(info: "Backbone | BackboneInfo") -> bool:
    """Return whether a model, loaded or not, is conditioned on text alone, so that it can compare two prompts."""
    return "text" in info.capabilities and "image" not in info.capabilities


def score(
    field: "VelocityField",
    z: "Tensor",
    source: "Conditioning",
    target: "Conditioning",
    frames: int,
    seed: int,
) -> float | None:
    """Return the score of a result z, 1 c f h w; None where the model makes no difference between the prompts.

    frames: how many latent frames are scored, from the first.
    """
    from ..sampling.field import Evaluation
    from ..sampling.noise import add_noise, keyed_noise

    window = z[:, :, :frames]
    nearer = apart = 0.0
    for index, sigma in enumerate(SIGMAS):
        eps = keyed_noise(window, seed, NOISE_STEP + index)
        noisy, u = add_noise(window, sigma, eps), eps - window
        v_src, v_tgt = field.velocities(
            sigma, [Evaluation(noisy, source, "src+"), Evaluation(noisy, target, "tgt+")]
        )
        nearer += (_sum_squares(v_src - u) - _sum_squares(v_tgt - u)).item()
        apart += _sum_squares(v_tgt - v_src).item()
    return nearer / apart if apart else None


def _sum_squares(difference: "Tensor") -> "Tensor":
    return difference.float().square().sum()


def judge(value: float, calibration: Mapping[str, Any], is_in_domain: bool = True) -> Agreement:
    """Turn a score into a verdict by the thresholds that were measured for the model.

    is_in_domain: whether the clip and the prompts are of the kind that the thresholds were measured on. Elsewhere there
    is no verdict.
    """
    if not calibration:
        return Agreement(value, hint="not calibrated for this model")
    if not is_in_domain:
        return Agreement(value, hint="not measured on clips or words of this kind")
    word = WEAKLY
    if value >= calibration[CLEARLY]["from"]:
        word = CLEARLY
    elif value < calibration[NOT]["below"]:
        word = NOT
    return Agreement(value, word, hint_for(word, calibration[word]))


def hint_for(word: str, counts: Mapping[str, Any]) -> str:
    """Say how often a verdict was right. counts: of the held-out scenes that got it, all and those that succeeded."""
    succeeded, count = counts["succeeded"], counts["scenes"]
    if not count:
        return "no held-out scene got this verdict"
    if word == WEAKLY:
        return (
            f"{succeeded} of {count} held-out scenes with this verdict had succeeded, by flowedit "
            "without a mask"
        )
    right = count - succeeded if word == NOT else succeeded
    hint = f"right for {right} of {count} held-out scenes with this verdict, by flowedit without a mask"
    return hint if right / count >= MIN_RELIABILITY else f"a weak hint: {hint}"


def describe_agreement(entry: Mapping[str, Any]) -> str:
    """Return a manifest's agreement as one line."""
    if not entry["words"]:
        return (
            f"the model's own score of the result is {entry['score']:+.2f}: above 0, the result looks "
            f"more like the target than like the source to the model ({entry['hint']})"
        )
    hint = f" ({entry['hint']})" if entry["hint"] else ""
    return f"the model sees the target in the result: {entry['words']}{hint}"
