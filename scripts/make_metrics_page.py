"""Write docs/metrics.md from the code: every metric with unit, meaning and healthy range, and the limits that
report and autopsy judge by.

    python scripts/make_metrics_page.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlvis.observe import health
from rlvis.observe.metric_table import KEYS, describe

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
# What the keys of a prefix have in common.
GROUPS = {
    "reward": "What the scorers said, before anything is made of it. Samples without a valid score are left "
    "out of every mean.",
    "group": "Inside the groups of samples of one prompt, which is where advantages come from.",
    "advantage": "What the loss multiplies, after clipping and before maps.",
    "trust": "Weights of groups and the contrast around the prior; written with a `trust` only.",
    "map": "Maps over space and time; written with `advantage.map.source` only.",
    "ratio": "The probability ratio as it enters the loss. Before the first update of a step it must be 1.",
    "clip": "The first optimizer step of a training step clips nothing, so with `train.updates_per_step=2` "
    "half of all ratios is the most that can be clipped.",
    "kl": "Between the policy that sampled and the one being trained, and to the reference.",
    "update": "The optimizer's side.",
    "data": "Prompts.",
    "eval": "Held-out prompts, drawn by the deterministic sampler; only at the steps of an evaluation.",
    "sentinel": "What the [sentinels](sentinels.md) see of the trained samples, and how far that is "
    "from the first steps of the run.",
    "time": "Where a step's time goes, on the first rank.",
    "checkpoint": "Checkpoints are written beside training.",
    "throughput": "Over all ranks.",
    "memory": "On the device.",
}
# Everything that can have a limit is on, sizes are those of the default run.
CONFIG: dict[str, Any] = {
    "advantage": {"map": {"source": "psm"}},
    "trust": {"kind": "ras", "crt": {"form": "exp"}},
    "data": {"prompts_per_step": 12},
    "train": {"updates_per_step": 2},
}


def page() -> str:
    """The page as markdown."""
    prefixes = list(dict.fromkeys(key.split("/")[0] for key in KEYS))
    lines = [
        "# Metrics",
        "",
        "Made by `python scripts/make_metrics_page.py` from `rlvis/observe`; a key that is not here cannot "
        "be logged. The same keys stand in `metrics.jsonl`, wandb and tensorboard, one line for each "
        "training step (step 0 holds the evaluation before training).",
    ]
    for prefix in prefixes:
        lines += ["", f"## {prefix}", "", GROUPS[prefix], "", describe(f"{prefix}/").rstrip()]
    lines += [
        "",
        "## Limits",
        "",
        "`report.html` and `rlvis autopsy` call a run suspicious beyond these, most of them only where the "
        "mean of ten steps is. Those of the ratio follow `advantage.clip_range`, here 1e-4, that of the "
        f"groups `data.prompts_per_step`, here {CONFIG['data']['prompts_per_step']}.",
        "",
        "| key | lowest | highest |",
        "|---|---|---|",
    ]
    for key, (low, high) in health.limits(CONFIG).items():
        lines.append(f"| `{key}` | {_number(low)} | {_number(high)} |")
    lines += ["", "What is looked for, by the name of the symptom:", ""]
    lines += [
        f"- `{rule.name}` ({', '.join(f'`{key}`' for key in rule.watches)}): {rule.healthy}"
        for rule in health.RULES
    ]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
