"""Likely causes as data: what speaks for each, why it does harm, and the override to try.

The predicates are in autopsy_looks. What files cannot show, an autopsy does not guess: artefacts of a video
autoencoder, or wrong noise that leaves no trace in the spread of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rlvis.report import autopsy_looks as looks
from rlvis.report.autopsy_evidence import Evidence


@dataclass(frozen=True)
class Cause:
    """A cause and its treatment. speaks: the evidence for it. try_: overrides, from the run's own values."""

    name: str
    speaks: Callable[[Evidence], looks.Found]
    why: str
    try_: Callable[[Evidence], str]


@dataclass(frozen=True)
class Likely:
    """A cause that something speaks for."""

    name: str
    strength: float
    evidence: list[str]
    why: str
    type: str


def likely(evidence: Evidence) -> list[Likely]:
    """The causes that something speaks for, the strongest first."""
    found = []
    for cause in CAUSES:
        strength, told = cause.speaks(evidence)
        if strength > 0:
            found.append(Likely(cause.name, strength, told, cause.why, cause.try_(evidence)))
    return sorted(found, key=lambda c: -c.strength)


def _fixed(text: str) -> Callable[[Evidence], str]:
    return lambda e: text


def _typed(*names: str) -> Callable[[Evidence], str]:
    """What the symptoms themselves say to type."""
    return lambda e: "; ".join(dict.fromkeys(s.type for s in e.of(*names)))


CAUSES = (
    Cause(
        "numbers that are not finite",
        looks.not_finite,
        "a non-finite number cannot be trained on; the step was stopped before the optimizer, the weights "
        "are whole",
        lambda e: (
            "model.dtype=float32"
            if e.told("model.dtype", "float32") != "float32"
            else f"{looks.lr(e, 0.3)} if it comes after good steps; else mend the module or reward named"
        ),
    ),
    Cause(
        "a dtype too narrow for log-probs",
        looks.narrow,
        "log-probs of small steps lie at the rounding of half precision: the clip range then cuts noise, and "
        "sums overflow",
        _fixed("model.dtype=float32, or LoRA (its weights stay float32); sampler.storage=float32"),
    ),
    Cause(
        "rollout and update compute different log-probs",
        lambda e: (3.0, t) if (t := looks.symptoms("ratio-first")(e)[1]) else looks.NOTHING,
        "where the ratio is not 1 before the first update, clipping and advantages act on an error, not on "
        "learning",
        _typed("ratio-first"),
    ),
    Cause(
        "a learning rate too high",
        looks.rate_too_high,
        "one optimizer step moves the policy further than clipping can undo; it leaves what it had learned",
        lambda e: f"{looks.lr(e, 0.1 if e.of('ratio-far') else 0.3)}; or advantage.kl_beta=0.04",
    ),
    Cause(
        "a learning rate too low, or no signal",
        looks.symptoms("clip-never", "reward-flat", each=1.0),
        "the policy hardly moves, or the reward cannot tell its samples apart",
        lambda e: (
            f"{looks.lr(e, 3)}; data.samples_per_prompt={2 * int(e.told('data.samples_per_prompt', 8))}"
        ),
    ),
    Cause(
        "a clip range too narrow",
        lambda e: (2.5, t) if (t := looks.symptoms("clip-always")(e)[1]) else looks.NOTHING,
        "after the first optimizer step nearly every ratio is outside the range and gives no gradient",
        _typed("clip-always"),
    ),
    Cause(
        "a scorer that is stuck",
        lambda e: (3.0, t) if (t := looks.symptoms("reward-constant")(e)[1]) else looks.NOTHING,
        "a score that does not depend on the picture teaches nothing; every group has advantage 0",
        _typed("reward-constant"),
    ),
    Cause(
        "a scorer that fails",
        looks.scorer,
        "samples without a score are masked: prompts that fail are never learned",
        _typed("invalid-samples"),
    ),
    Cause(
        "groups that teach nothing",
        lambda e: looks.NOTHING if e.of("reward-constant") else looks.symptoms("zero-variance", each=1.5)(e),
        "in a group of equal rewards every advantage is 0",
        _typed("zero-variance"),
    ),
    Cause(
        "reward hacking",
        looks.symptoms("held-out-falls", "terms-apart", "pictures-unlike", "held-out-apart", each=2.0),
        "the policy raises the trained number by something that nobody wanted",
        _typed("held-out-falls", "terms-apart", "pictures-unlike", "held-out-apart"),
    ),
    Cause(
        "the training sampler differs from that of the evaluation",
        looks.sampler_gap,
        "few noisy steps in training reward pictures that the deterministic sampler does not make",
        lambda e: f"eval.steps={e.told('sampler.steps', 10)} to compare, or sampler.steps: more",
    ),
    Cause(
        "samples of a group that are alike from the start",
        looks.alike,
        "without differences inside a group nothing is learned: the same noise for all, or too little of it",
        _fixed("sampler.share_noise=false, sampler.eta: more"),
    ),
    Cause(
        "no gradient reaches the policy",
        looks.no_gradient,
        "a loss term without a gradient trains nothing, however the curves look",
        _fixed("rlvis doctor with the same overrides checks every loss term"),
    ),
    Cause(
        "trust or maps that change nothing, or too much",
        looks.symptoms(
            "weights-constant", "few-effective-groups", "order-inverted", "maps-failed", "map-narrow"
        ),
        "weights and maps should shift the update, not switch it off",
        _typed("weights-constant", "few-effective-groups", "order-inverted", "maps-failed", "map-narrow"),
    ),
    Cause(
        "prompts that are cut off",
        looks.symptoms("truncated-prompts"),
        "the policy never reads what the reward asks for",
        _typed("truncated-prompts"),
    ),
    Cause(
        "out of memory",
        looks.memory,
        "the device or the machine has less memory than a step needs",
        lambda e: (
            f"train.micro_batch={max(1, int(e.told('train.micro_batch', 8)) // 2)} train.shard="
            f"{max(1, int(e.told('train.micro_batch', 8)) // 2)}, model.gradient_checkpointing=true, "
            "engine=zero2, or a LoRA"
        ),
    ),
    Cause(
        "killed from outside",
        looks.killed,
        "kill -9, a scheduler's time limit, or the kernel when the machine's memory was full (dmesg tells)",
        _fixed("train.save_every=N so that little is lost; less host memory: train.shard=N"),
    ),
    Cause(
        "no space on the disk",
        looks.disk,
        "a checkpoint or a picture could not be written",
        _fixed("rlvis checkpoint prune, train.keep=1, or run_dir on another disk"),
    ),
    Cause(
        "an error",
        looks.error,
        "the program stopped by itself",
        _fixed("what the message says"),
    ),
    Cause(
        "what the doctor found",
        looks.doctor,
        "the checks before training saw it coming",
        looks.doctor_types,
    ),
    Cause(
        "a machine that became slow",
        looks.symptoms("steps-slower", each=0.5),
        "not the run itself: something else takes its time",
        _typed("steps-slower"),
    ),
)
