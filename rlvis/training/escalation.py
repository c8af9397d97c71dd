"""What is counted and warned of does not go on for ever: a run that trains nothing ends, and says why.

Each condition is read from the metrics of a step, which are global, so all ranks come to the same end in
the same step. One that holds for `reward.max_invalid_steps` steps in a row saves a checkpoint and ends the
run with an exit code of its own; equal rewards in all groups are said once, since a reward may be saturated.
A run that came to its end and had a valid reward in fewer than half of its steps says so last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlvis.observe.lines import steps
from rlvis.reward.contract import Term
from rlvis.runs.exit_state import NOTHING_TRAINED
from rlvis.schema import Config

log = logging.getLogger(__name__)

ENOUGH = 0.5  # share of the steps that a run has valid rewards in, without a word
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Condition:
    """holds: whether a step's metrics (and its number of samples) show it. what: what happened, in words;
    type: what to do. ends: whether it ends the run.
    """

    holds: Callable[[Metrics], bool]
    what: str
    type: str
    ends: bool = True


def _scored(metrics: Metrics) -> bool:
    return metrics.get("reward/valid_fraction", 1.0) > 0


def _trained(metrics: Metrics) -> bool:
    return _scored(metrics) and metrics.get("update/optimizer_steps", 1.0) > 0


CONDITIONS = (
    Condition(
        lambda m: not _scored(m),
        "no sample had a valid reward",
        "Mend the scorer; reward.patience=SECONDS waits for one that is away",
    ),
    Condition(
        lambda m: _scored(m) and (not _trained(m) or m.get("advantage/kept_fraction") == 0),
        "no sample with a valid reward was trained",
        "See advantage.best_of_n, advantage.transform and train.updates_per_step",
    ),
    Condition(
        lambda m: _trained(m) and m.get("update/grad_norm") == 0 and m.get("advantage/max", 0.0) > 0,
        "samples were trained, and the gradient was exactly 0",
        "Type model.dtype=float32 where it is too narrow; see trust.*, advantage.clip_range and rlvis doctor",
    ),
    Condition(
        lambda m: m.get("map/failed", 0.0) >= m["samples"],
        "no sample had a map, as no features were finite",
        "Type advantage.map.source=none to train without maps, or another advantage.map.backbone",
    ),
    Condition(
        lambda m: _scored(m) and m.get("group/zero_variance_fraction") == 1,
        "all groups had equal rewards, from which nothing is learned",
        "a finer reward, or data.samples_per_prompt: twice it; where the reward is saturated, harder prompts "
        "or an end here",
        ends=False,
    ),
)


class Escalation:
    """Of one run, in each of its processes."""

    def __init__(self, config: Config, terms: list[Term], run_dir: Path, main: bool) -> None:
        self.most, self.last = config.reward.max_invalid_steps, config.train.steps
        self.terms, self.run_dir, self.main = terms, run_dir, main
        self.samples = float(config.data.prompts_per_step * config.data.samples_per_prompt)
        self.lasted = [0] * len(CONDITIONS)

    def look(self, metrics: Metrics, step: int) -> str | None:
        """Why the run ends after training step `step`, from 1; None where it goes on."""
        end, metrics = None, {**metrics, "samples": self.samples}
        for i, condition in enumerate(CONDITIONS):
            self.lasted[i] = self.lasted[i] + 1 if condition.holds(metrics) else 0
            if not self.most or self.lasted[i] < self.most or end is not None:
                continue
            lasting = f"in {self.lasted[i]} training steps in a row {condition.what}"
            if condition.ends:
                end = f"{lasting}{self._reasons() if i == 0 else ''}. {condition.type}"
            elif self.lasted[i] == self.most and self.main:
                log.warning("step %d: %s; type %s", step, lasting, condition.type)
        return end

    def told(self, step: int, why: str) -> str:
        """The one line about a run that ends, which is logged."""
        from rlvis.checkpoints import files

        line = (
            f"stopped after step {step} of {self.last} (exit code {NOTHING_TRAINED}): {why}. The weights are "
            f"in {files.root(self.run_dir) / files.name(step)}; once it is mended go on with "
            f"resume={self.run_dir} (reward.max_invalid_steps=0 goes on whatever happens)"
        )
        if self.main:
            log.error("%s", line)
        return line

    def _reasons(self) -> str:
        """What the scorers of this process last failed of."""
        reasons = [f"{term.name}: {term.boundary.reason}" for term in self.terms if term.boundary.reason]
        return f" ({'; '.join(reasons)})" if reasons else ""


def remark(run_dir: Path) -> str:
    """What a run has to say last whose training steps had valid rewards in fewer than half; else empty."""
    shares = [
        row["reward/valid_fraction"]
        for row in steps(run_dir / "metrics.jsonl")
        if row["step"] > 0 and isinstance(row.get("reward/valid_fraction"), int | float)
    ]
    valid = sum(share > 0 for share in shares)
    if not shares or valid >= ENOUGH * len(shares):
        return ""
    return (
        f"only {valid} of {len(shares)} training steps had a valid reward; the others trained nothing: see "
        f"the scorer's words in the log, and rlvis autopsy {run_dir}"
    )
