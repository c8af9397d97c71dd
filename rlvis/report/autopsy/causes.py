"""Likely causes as data: what speaks for each, why it does harm, and the override to try.

What files cannot show, an autopsy does not guess: artefacts of a video autoencoder, or wrong noise that
leaves no trace in the spread of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rlvis.findings import Finding, Severity
from rlvis.report.autopsy import predicates as signs
from rlvis.report.autopsy.evidence import Evidence


@dataclass(frozen=True)
class Cause:
    """A cause and its treatment. speaks: the evidence for it. try_: overrides, from the run's own values."""

    name: str
    speaks: Callable[[Evidence], signs.Signs]
    why: str
    try_: Callable[[Evidence], str]


def likely(evidence: Evidence) -> list[Finding]:
    """The causes that something speaks for, the strongest first.

    The sentences that speak for it are a finding's evidence; numbers["strength"] goes from 0 (not at all) to
    3 (nearly certain).
    """
    findings: list[tuple[float, Finding]] = []
    for cause in CAUSES:
        strength, sentences = cause.speaks(evidence)
        if strength > 0:
            finding = Finding(
                what=cause.name,
                severity=Severity.warning,
                numbers={"strength": strength},
                why=cause.why,
                type=cause.try_(evidence),
                evidence=tuple(sentences),
            )
            findings.append((strength, finding))
    return [finding for _, finding in sorted(findings, key=lambda pair: -pair[0])]


def _fixed(text: str) -> Callable[[Evidence], str]:
    return lambda e: text


def _typed(*names: str) -> Callable[[Evidence], str]:
    """What the symptoms themselves say to type."""
    return lambda e: "; ".join(dict.fromkeys(symptom.type for symptom in e.named(*names)))


CAUSES = (
    Cause(
        "numbers that are not finite",
        signs.not_finite,
        "a non-finite number cannot be trained on; the step was stopped before the optimizer, the weights "
        "are whole",
        lambda e: (
            "model.dtype=float32"
            if e.setting("model.dtype", "float32") != "float32"
            else f"{signs.lr(e, 0.3)} if it comes after good steps; else mend the module or reward named"
        ),
    ),
    Cause(
        "a dtype too narrow for log-probs",
        signs.narrow,
        "log-probs of small steps lie at the rounding of half precision: the clip range then cuts noise, and "
        "sums overflow",
        _fixed("model.dtype=float32, or LoRA (its weights stay float32); sampler.storage=float32"),
    ),
    Cause(
        "rollout and update compute different log-probs",
        signs.telling("ratio-first", 3.0),
        "where the ratio is not 1 before the first update, clipping and advantages act on an error, not on "
        "learning",
        _typed("ratio-first"),
    ),
    Cause(
        "a learning rate too high",
        signs.rate_too_high,
        "one optimizer step moves the policy further than clipping can undo; it leaves what it had learned",
        lambda e: f"{signs.lr(e, 0.1 if e.named('ratio-far') else 0.3)}; or advantage.kl_beta=0.04",
    ),
    Cause(
        "a learning rate too low, or no signal",
        signs.showing("clip-never", "reward-flat", each=1.0),
        "the policy hardly moves, or the reward cannot tell its samples apart",
        lambda e: (
            f"{signs.lr(e, 3)}; data.samples_per_prompt={2 * int(e.setting('data.samples_per_prompt', 8))}"
        ),
    ),
    Cause(
        "a clip range too narrow",
        signs.telling("clip-always", 2.5),
        "after the first optimizer step nearly every ratio is outside the range and gives no gradient",
        _typed("clip-always"),
    ),
    Cause(
        "a scorer that is stuck",
        signs.telling("reward-constant", 3.0),
        "a score that does not depend on the picture teaches nothing; every group has advantage 0",
        _typed("reward-constant"),
    ),
    Cause(
        "a scorer that fails",
        signs.scorer,
        "samples without a score are masked: prompts that fail are never learned",
        _typed("invalid-samples"),
    ),
    Cause(
        "groups that teach nothing",
        lambda e: (
            signs.NOTHING if e.named("reward-constant") else signs.showing("zero-variance", each=1.5)(e)
        ),
        "in a group of equal rewards every advantage is 0",
        _typed("zero-variance"),
    ),
    Cause(
        "reward hacking",
        signs.showing("held-out-falls", "terms-apart", "pictures-unlike", "held-out-apart", each=2.0),
        "the policy raises the trained number by something that nobody wanted",
        _typed("held-out-falls", "terms-apart", "pictures-unlike", "held-out-apart"),
    ),
    Cause(
        "the training sampler differs from that of the evaluation",
        signs.sampler_gap,
        "few noisy steps in training reward pictures that the deterministic sampler does not make",
        lambda e: f"eval.steps={e.setting('sampler.steps', 10)} to compare, or sampler.steps: more",
    ),
    Cause(
        "samples of a group that are alike from the start",
        signs.alike,
        "without differences inside a group nothing is learned: the same noise for all, or too little of it",
        _fixed("sampler.share_noise=false, sampler.eta: more"),
    ),
    Cause(
        "no gradient reaches the policy",
        signs.no_gradient,
        "a loss term without a gradient trains nothing, however the curves look",
        _fixed("rlvis doctor with the same overrides checks every loss term"),
    ),
    Cause(
        "trust or maps that change nothing, or too much",
        signs.showing(
            "weights-constant", "few-effective-groups", "order-inverted", "maps-failed", "map-narrow"
        ),
        "weights and maps should shift the update, not switch it off",
        _typed("weights-constant", "few-effective-groups", "order-inverted", "maps-failed", "map-narrow"),
    ),
    Cause(
        "prompts that are cut off",
        signs.showing("truncated-prompts"),
        "the policy never reads what the reward asks for",
        _typed("truncated-prompts"),
    ),
    Cause(
        "out of memory",
        signs.memory,
        "the device or the machine has less memory than a step needs",
        lambda e: (
            f"train.micro_batch={max(1, int(e.setting('train.micro_batch', 8)) // 2)} train.shard="
            f"{max(1, int(e.setting('train.micro_batch', 8)) // 2)}, model.gradient_checkpointing=true, "
            "engine=zero2, or a LoRA"
        ),
    ),
    Cause(
        "killed from outside",
        signs.killed,
        "kill -9, a scheduler's time limit, or the kernel when the machine's memory was full (dmesg tells)",
        _fixed("train.save_every=N so that little is lost; less host memory: train.shard=N"),
    ),
    Cause(
        "no space on the disk",
        signs.disk,
        "a checkpoint or a picture could not be written",
        _fixed("rlvis checkpoint prune, train.keep=1, or run_dir on another disk"),
    ),
    Cause(
        "an error",
        signs.error,
        "the program stopped by itself",
        _fixed("what the message says"),
    ),
    Cause(
        "what the doctor found",
        signs.doctor,
        "the checks before training saw it coming",
        signs.doctor_types,
    ),
    Cause(
        "a machine that became slow",
        signs.showing("steps-slower", each=0.5),
        "not the run itself: something else takes its time",
        _typed("steps-slower"),
    ),
)
