"""The table of metrics: every key that a run may write, with unit, meaning and healthy range.

A key that is not in the table is refused when it is logged, so the table (and the reference page made from
it) stays complete.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple


class Key(NamedTuple):
    """A row of the table: unit ("" for a plain number), meaning, and the range to expect in a healthy run."""

    unit: str
    meaning: str
    healthy: str


KEYS: dict[str, Key] = {
    "reward/mean": Key(
        "reward", "mean of the weighted sum of rewards over the valid samples of the step", "rises"
    ),
    "reward/std": Key("reward", "standard deviation of the same over all valid samples", "above 0"),
    "reward/<term>/mean": Key(
        "reward", "mean of one raw reward term over the valid samples", "none falls for long"
    ),
    "reward/<term>/std": Key("reward", "standard deviation of one raw reward term", "above 0"),
    "reward/<term>/latency": Key(
        "s", "time spent in one scorer during the step, on rank 0", "below time/rollout"
    ),
    "reward/valid_fraction": Key("", "share of samples for which every scorer gave a finite score", "1"),
    "reward/invalid_count": Key("samples", "samples masked because a scorer failed or was not finite", "0"),
    "reward/refilled": Key(
        "samples", "samples drawn afresh in place of failed ones, all rounds of reward.refill together", "0"
    ),
    "reward/<term>/cached": Key(
        "",
        "share of one scorer's scores that came from reward.cache, on rank 0",
        "0; 1 where a run is repeated",
    ),
    "reward/<term>/retried": Key(
        "calls",
        "calls of one scorer that were repeated because they failed, while it was waited for too "
        "(reward.patience), all ranks",
        "0: the key is missing",
    ),
    "reward/<term>/alone": Key(
        "samples",
        "samples that one scorer was asked about one by one, as the call with all of them failed, all ranks",
        "0: the key is missing",
    ),
    "reward/<term>/extra/<name>": Key(
        "", "mean of a further number that a function returned beside its scores, on rank 0", "as it says"
    ),
    "group/std_mean": Key(
        "reward", "standard deviation of the reward inside a prompt's group, mean over prompts", "above 0"
    ),
    "group/zero_variance_fraction": Key(
        "",
        "share of prompts with fewer than two valid samples, or equal rewards: nothing is learned from them",
        "below 0.5",
    ),
    "advantage/abs_mean": Key(
        "", "mean |A| over the trained samples, A summed over terms with their weights", "0.5 to 1"
    ),
    "advantage/max": Key(
        "", "largest |A| among the trained samples", "at most adv_clip times the terms' weights"
    ),
    "advantage/clamped_fraction": Key(
        "", "share of trained samples and terms that stand at advantage.adv_clip", "below 0.01"
    ),
    "advantage/kept_fraction": Key(
        "", "share of all samples that are trained (valid, and not dropped by best_of_n)", "1"
    ),
    "advantage/reward_agreement": Key(
        "",
        "share of trained samples whose A has the sign of (reward - group mean); ties are left out",
        "1 for GRPO on one reward, 0 with advantage.sign=-1; lower where other terms reorder samples",
    ),
    "trust/weight_mean": Key("", "mean weight over groups and objectives", "near 1"),
    "trust/weight_min": Key("", "smallest weight of a group", "above 0"),
    "trust/weight_max": Key("", "largest weight of a group", "inside the form's bounds"),
    "trust/weight_std": Key(
        "", "standard deviation of the weights: 0 where trust changes nothing", "above 0 with a trust"
    ),
    "trust/effective_groups": Key(
        "groups",
        "(sum w)^2 / (sum w^2), mean over objectives: groups that carry the update",
        "near data.prompts_per_step",
    ),
    "trust/prior_mean": Key(
        "reward", "mean over groups of the prior's mean (the anchor)", "follows reward/mean"
    ),
    "trust/prior_gap": Key("reward", "mean |group mean - prior mean|", "of the order of reward/std or below"),
    "trust/posterior_gap": Key(
        "reward",
        "mean |posterior mean - prior mean| under the prior's variance; 0 where the prior has none",
        "at most trust/prior_gap",
    ),
    "trust/inverted_fraction": Key(
        "",
        "share of pairs of unequal rewards in a group whose order the contrast turns around",
        "below 0.1; 0 with trust.crt.form=exp trust.crt.monotone=true",
    ),
    "map/entropy": Key(
        "",
        "entropy of the maps over the free positions, by that of a uniform one, mean over samples",
        "0.8 to 1; 1: a map of ones",
    ),
    "map/mean": Key(
        "", "mean of the maps: what they scale the loss by (1 with map_norm=mean1)", "0.2 to 0.8"
    ),
    "map/max": Key("", "largest value of a map", "1; with map_norm=mean1 below 5"),
    "map/failed": Key("samples", "samples that got a map of ones because their features failed", "0"),
    "ratio/mean": Key("", "mean probability ratio as it enters the loss", "1 within the clip range"),
    "ratio/max_deviation": Key(
        "", "largest |ratio - 1| over all updates of the step", "a few times the clip range"
    ),
    "ratio/max_deviation_first": Key(
        "", "largest |ratio - 1| before the first update of the step, where the policy has not moved", "0"
    ),
    "clip/range": Key("", "how far a ratio may be from 1: advantage.clip_range, resolved", "as configured"),
    "clip/allowed_fraction": Key(
        "", "share of ratios a side above which the clip pulls the policy back", "0.1 where a sample has one"
    ),
    "clip/fraction_high": Key("", "share of ratios above 1 + clip", "below 0.5"),
    "clip/fraction_low": Key("", "share of ratios below 1 - clip", "below 0.5"),
    "kl/approx": Key(
        "nats",
        "estimate of KL(old policy, new policy): mean of (log ratio)^2 / 2 at the ratio scope",
        "near 0",
    ),
    "kl/reference": Key(
        "nats", "KL to the reference policy per transition, before advantage.kl_beta", "grows slowly"
    ),
    "update/loss": Key(
        "", "loss as it was minimised, mean over the updates of the step", "near 0; its level means nothing"
    ),
    "update/grad_norm": Key(
        "", "global gradient norm before clipping, mean over updates", "finite, no jumps of 10x"
    ),
    "update/optimizer_steps": Key("", "optimizer steps of this training step", "train.updates_per_step"),
    "data/truncated_prompts": Key(
        "prompts", "prompts of the step that are longer than the text encoders take", "0"
    ),
    "update/learning_rate": Key(
        "", "learning rate of the optimizer", "as optim.schedule and optim.warmup say"
    ),
    "eval/score": Key(
        "", "held-out prompts: mean of how far a sample does what its prompt says, in [0, 1]", "rises"
    ),
    "eval/accuracy": Key("", "held-out prompts: share of samples in which everything is right", "rises"),
    "eval/accuracy/<kind>": Key("", "the same for the prompts of one kind", "none falls for long"),
    "eval/right/<attribute>": Key(
        "", "held-out prompts that ask for it: share of samples in which this attribute is right", "rises"
    ),
    "eval/<term>/<kind>": Key(
        "score",
        "the same for the prompts of one kind (eval.by); macro: the mean over kinds, each counting the same",
        "none falls for long",
    ),
    "eval/diversity": Key(
        "",
        "held-out prompts: mean distance between 8 x 8 thumbnails of a prompt's samples, in shares of the "
        "full range; with eval.samples above 1",
        "does not fall towards 0",
    ),
    "eval/reworded/<measure>": Key(
        "score",
        "accuracy, score or a scorer of held-out prompts drawn from other words that say the same "
        "(eval.paraphrase); MEASURE_change: minus the same of the prompts as they are",
        "near the prompts' own",
    ),
    "eval/train_sampler/<measure>": Key(
        "score",
        "accuracy, score or a scorer of held-out prompts drawn by the sampler of training "
        "(eval.train_sampler); MEASURE_change: minus the same by the deterministic sampler",
        "near the deterministic sampler's",
    ),
    "eval/<term>": Key(
        "score", "held-out prompts: mean of an extra scorer of eval.terms", "as that scorer says"
    ),
    "sentinel/edge_density": Key(
        "", "share of the valid samples' pixels with a luma gradient above a tenth of full scale", "no jumps"
    ),
    "sentinel/colour_entropy": Key(
        "bits", "entropy of a sample's colours at 8 levels a channel, mean over samples", "no jumps"
    ),
    "sentinel/saturation": Key(
        "", "largest minus smallest channel of a pixel, mean over pixels and samples", "no jumps"
    ),
    "sentinel/spectral_peak": Key(
        "dB",
        "largest power at 1/2 to 1/32 cycles a pixel over its neighbours, mean over samples: grids",
        "below 5",
    ),
    "sentinel/motion_energy": Key(
        "", "luma difference of neighbouring frames, mean over samples; clips only", "no jumps"
    ),
    "sentinel/flicker": Key(
        "", "second difference in time of the brightness of 8 x 8 cells by 2; clips only", "does not rise"
    ),
    "sentinel/diversity": Key(
        "", "difference of the thumbnails of two samples of a prompt, mean over pairs and prompts", "above 0"
    ),
    "sentinel/<statistic>/deviation": Key(
        "deviations",
        "distance from the first sentinels.baseline steps; of held-out rewards while the trained one rises",
        "within +- sentinels.threshold",
    ),
    "sentinel/alarms": Key("alarms", "alarms of the sentinels at this step", "0"),
    "time/sentinels": Key("s", "statistics of the samples, a part of time/step", "below 0.05 of time/step"),
    "time/eval": Key("s", "a held-out evaluation, outside of time/step", "below eval.every * time/step / 5"),
    "time/rollout": Key("s", "sampling the trajectories", "most of the step, with update"),
    "time/score": Key("s", "waiting for the rewards", "small beside rollout"),
    "time/refill": Key(
        "s",
        "fresh samples in place of failed ones and their scores, a part of time/rollout and time/score",
        "0: the key is missing",
    ),
    "time/recovery": Key(
        "s",
        "repeated calls of scorers, samples asked one by one and waiting for scorers that are away, on the "
        "slowest rank; a part of time/score or time/scorers",
        "0: the key is missing",
    ),
    "time/scorers": Key(
        "s",
        "the scorers at work, on rank 0; what of it passed during the rollout (reward.executor) is not in "
        "time/score",
        "below time/rollout with reward.executor=thread, http or ray",
    ),
    "time/weigh": Key("s", "prior and trust", "near 0"),
    "time/build": Key("s", "advantages and maps", "small beside rollout"),
    "time/map": Key("s", "maps alone, a part of time/build", "below 0.05 of time/step"),
    "time/update": Key("s", "forwards, backwards and optimizer steps", "most of the step, with rollout"),
    "time/checkpoint": Key(
        "s",
        "copying the state for the checkpoint before this step, and waiting for the write before it; outside "
        "of time/step",
        "below 0.05 of time/step",
    ),
    "checkpoint/write_seconds": Key(
        "s",
        "writing a checkpoint in the background, told once it is done",
        "below train.save_every * time/step",
    ),
    "time/step": Key("s", "the whole step", "constant"),
    "throughput/samples_per_second": Key(
        "samples/s", "samples of the step over all ranks, by time/step", "constant"
    ),
    "memory/max_gib": Key(
        "GiB", "largest memory allocated in the step's stages, on any device (0 on a CPU)", "constant"
    ),
    "memory/<stage>": Key(
        "GiB", "largest memory allocated in one stage, on rank 0's device (not on a CPU)", "constant"
    ),
}


def find(key: str) -> Key | None:
    """The table's row for a key that was written: `reward/clip/mean` is found under `reward/<term>/mean`."""
    return KEYS.get(key) or next((row for pattern, row in _PATTERNS if pattern.fullmatch(key)), None)


def check(keys: Iterable[str]) -> None:
    """Refuse keys that the table does not know. Raises ValueError with the nearest key."""
    unknown = [key for key in keys if find(key) is None]
    if unknown:
        near = difflib.get_close_matches(unknown[0], KEYS, n=1)
        hint = f" (the nearest is {near[0]!r})" if near else ""
        raise ValueError(
            f"metric {unknown[0]!r} is not in the table of {len(KEYS)} keys{hint}: every key that is "
            "written is documented; add it to KEYS in rlvis/observe/metric_table.py with its unit, meaning "
            "and healthy range"
        )


def describe(prefix: str = "") -> str:
    """The table as markdown, or the keys that start with `prefix`, for the reference page."""
    lines = ["| key | unit | meaning | healthy |", "|---|---|---|---|"]
    for key, row in KEYS.items():
        if not key.startswith(prefix):
            continue
        cells = (f"`{key}`", row.unit, row.meaning, row.healthy)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


_PATTERNS = [
    (re.compile(re.sub(r"<\w+>", "[^/]+", key)), row) for key, row in KEYS.items() if "<" in key
]  # none of the fixed parts has a character that a regular expression reads
