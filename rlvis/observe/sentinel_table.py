"""What the sentinels watch: a row each statistic of pictures, when it is unusual, and how that is said.

Beside the pictures there are rewards that are not trained on: `reward_NAME` of terms of weight 0, and
`eval_score`; they are unusual where they fall.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlvis.observe.step_statistics import PREFIX
from rlvis.schema import SentinelConfig

EVALUATED = "eval_score"
EVALUATIONS = 2  # in a row, where patience asks for no fewer
DEVIATION = "/deviation"  # ends the metric of a statistic's deviations


@dataclass(frozen=True)
class Kind:
    """A statistic of pictures: unit, least deviation, and what more and less of it look like; "" where that
    side is no alarm.
    """

    unit: str
    floor: float
    more: str
    less: str


KINDS: dict[str, Kind] = {
    "edge_density": Kind(
        "of the pixels",
        0.002,
        "more edges: noise, texture or lines all over",
        "fewer edges: blur, flat areas, wiped backgrounds",
    ),
    "colour_entropy": Kind(
        "bits",
        0.05,
        "more colours: noise or rainbow patterns",
        "fewer colours: one background, or one colour for everything",
    ),
    "saturation": Kind("of full scale", 0.005, "garish colours", "faded colours"),
    "spectral_peak": Kind("dB", 0.5, "a grid at the stride of patches or of the autoencoder", ""),
    "motion_energy": Kind(
        "of full scale a frame", 0.001, "clips that jump from frame to frame", "clips that stand still"
    ),
    "flicker": Kind("of full scale", 0.001, "brightness that flickers", ""),
    "diversity": Kind("of full scale", 0.001, "", "samples of a prompt that are nearly the same picture"),
}


def unusual(name: str, deviation: float, threshold: float) -> bool:
    """Whether a deviation is beyond the threshold on a side that counts."""
    kind = KINDS.get(name)
    if kind is None:
        return deviation <= -threshold
    return (deviation >= threshold and bool(kind.more)) or (deviation <= -threshold and bool(kind.less))


def patience(name: str, config: SentinelConfig) -> int:
    """Unusual steps in a row, or evaluations, until the alarm."""
    return min(config.patience, EVALUATIONS) if name == EVALUATED else config.patience


def deviation_key(name: str) -> str:
    """The metric of a statistic's deviations."""
    return f"{PREFIX}{name}{DEVIATION}"


def within(config: SentinelConfig) -> str:
    """What is no alarm, in words."""
    return f"within {config.threshold:g} deviations of the first {config.baseline} steps"


def words(
    name: str, value: float, usual: float, deviation: float, since: int, config: SentinelConfig
) -> tuple[str, str]:
    """(what, why) of an alarm."""
    kind, rounds = KINDS.get(name), "evaluations" if name == EVALUATED else "steps"
    tail = f"since step {since} (alarm: {config.threshold:g} in {patience(name, config)} {rounds} in a row)"
    if kind is None:
        what = (
            f"held-out {name.replace('_', ' ', 1)} fell from {usual:.4g} to {value:.4g} while the trained "
            f"reward rises: {deviation:+.1f} deviations, {tail}"
        )
        return what, "the policy raises the trained number by something that nobody wanted"
    unit = f" {kind.unit}" if kind.unit else ""
    what = (
        f"{name.replace('_', ' ')} is {value:.4g}{unit} and was {usual:.4g} in the first {config.baseline} "
        f"steps: {deviation:+.1f} deviations, {tail}"
    )
    return what, f"{kind.more if deviation > 0 else kind.less}; rewards are often fooled with it"
