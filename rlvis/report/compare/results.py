"""Held-out results of arms, paired prompt by prompt and seed by seed, and their last samples side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rlvis.evaluation.suites import RIGHT
from rlvis.observe import gallery
from rlvis.report import heldout, pictures
from rlvis.report.compare.arms import DEFAULTS, Arm, Member
from rlvis.report.compare.panels import Several
from rlvis.report.panels.base import Panel, Table, num, short
from rlvis.report.panels.gallery import Block, Card, Row

MEASURES = 12
PROMPTS, RUNS = 8, 12  # of the samples side by side
BUDGET = 3_000_000  # bytes of base64
PER_PROMPT = Mapping[tuple[int, str], float]


def held_out(several: Several) -> Panel | None:
    """Last results of every arm, and its difference from the first arm; None without evaluations."""
    if not any(member.evaluations.entries for member in several.members):
        return None
    step = _common_step(several.members)
    if step is None:
        note = "The runs were not evaluated at a common step, so their results are not compared."
        return Panel("", "text", "", note)
    tables = {arm.label: [member.evaluations.table(step) for member in arm.members] for arm in several.arms}
    known = {label: [t for t in each if t is not None] for label, each in tables.items()}
    whole = [arm for arm in several.arms if len(known[arm.label]) == len(arm.members)]
    if not whole:
        return Panel("", "text", "", f"The samples of step {step} cannot be read.")
    base = next((arm for arm in whole if arm.label == DEFAULTS), whole[0])
    columns = heldout.measures(known[base.label][0])
    parts: list[Panel] = []
    details: list[Panel] = []
    for name, column in list(columns.items())[:MEASURES]:
        per = {
            arm.label: [heldout.per_prompt([t], column) for t in known[arm.label]]
            for arm in whole
            if all(column in t for t in known[arm.label])
        }
        rows = [_row(arm, base, per) for arm in whole if arm.label in per]
        header = ("arm", "mean", "difference", "95 %, prompts", "95 %, seeds", "prompts", "seeds")
        measure = Panel(name, "table", Table(header, rows, frozenset(range(1, 7))))
        (details if column.startswith(RIGHT) else parts).append(measure)
    if details:
        parts.append(Panel("Attributes", "parts", details, folded=True))
    settings = _other_settings(several.members, step)
    note = (
        f"After {step} steps. Differences are from {base.label}: prompt by prompt on the same "
        "noise (bootstrap over prompts, averaged over seeds), and seed by seed (Student) where both have the "
        "same two seeds or more."
    )
    return Panel("", "parts", parts, f"{note}{settings}")


def samples(several: Several) -> Panel | None:
    """The last sheet of each run, prompt by prompt; None where no run drew any."""
    drawn = [member for arm in several.arms for member in arm.members if member.run.samples]
    if not drawn:
        return None
    if len(drawn) > RUNS:  # the first run of each arm first
        ranked = sorted(
            drawn, key=lambda member: [m for a in several.arms for m in a.members[1:]].count(member)
        )
        drawn = [member for member in drawn if member in ranked[:RUNS]]
    tiles: dict[str, list[Card]] = {}
    problems = []
    share = BUDGET * several.room / (len(drawn) * PROMPTS)
    for member in drawn:
        step, path = member.run.samples[-1]
        try:
            texts, boxes = gallery.captions(path)[:PROMPTS], gallery.boxes(path)[:PROMPTS]
            if not texts or len(texts) != len(boxes):
                problems.append(f"The sheets of {member.label} do not say where their pictures are.")
                continue
            for text, tile in zip(texts, pictures.cut(pictures.load(path), boxes), strict=True):
                card = Card(pictures.still(tile, share, 160), member.label, f"step {step}", "")
                tiles.setdefault(text, []).append(card)
        except pictures.UNREADABLE:
            problems.append(f"The last sheet of {member.label} cannot be read.")
    rows = [Row(short(text, 200), cards) for text, cards in list(tiles.items())[: 2 * PROMPTS]]
    if len(drawn) < sum(bool(member.run.samples) for member in several.members):
        problems.append(f"{len(drawn)} of {len(several.members)} runs are shown.")
    return Panel("", "blocks", [Block(None, rows)] if rows else [], " ".join(problems))


def _row(arm: Arm, base: Arm, per: Mapping[str, Sequence[PER_PROMPT]]) -> tuple[str, ...]:
    ours, theirs = per[arm.label], per[base.label]
    seeds = str(len({str(member.run.setting("seed")) for member in arm.members}))
    means = [sum(p.values()) / len(p) for p in ours if p]
    mean = num(sum(means) / len(means)) if means else "-"
    if arm is base:
        return (short(arm.label, 80), mean, "-", "-", "-", str(len(ours[0])), seeds)
    compared = heldout.difference(_averaged(theirs), _averaged(ours))
    if compared is None:
        return (short(arm.label, 80), mean, "other prompts", "-", "-", str(len(ours[0])), seeds)
    interval = "-" if math.isnan(compared.low) else f"{compared.low:+.3f} .. {compared.high:+.3f}"
    return (
        short(arm.label, 80),
        mean,
        f"{compared.difference:+.4f}",
        interval,
        _over_seeds(arm, base, ours, theirs),
        str(compared.n),
        seeds,
    )


def _over_seeds(arm: Arm, base: Arm, ours: Sequence[PER_PROMPT], theirs: Sequence[PER_PROMPT]) -> str:
    """Student's interval of the difference over the seeds of both arms; a dash below two, or where a seed
    occurs twice.
    """
    from scipy import stats

    a, b = _by_seed(arm.members, ours), _by_seed(base.members, theirs)
    if len(a) < 2 or a.keys() != b.keys() or len(a) != len(ours) or len(b) != len(theirs):
        return "-"
    differences = np.array([a[seed] - b[seed] for seed in a])
    half = float(stats.t.ppf(0.975, len(a) - 1)) * differences.std(ddof=1) / math.sqrt(len(a))
    return f"{differences.mean() - half:+.3f} .. {differences.mean() + half:+.3f}"


def _by_seed(members: Sequence[Member], per: Sequence[PER_PROMPT]) -> dict[str, float]:
    pairs = zip(members, per, strict=True)
    return {str(member.run.setting("seed")): sum(p.values()) / len(p) for member, p in pairs if p}


def _averaged(per: Sequence[PER_PROMPT]) -> dict[tuple[int, str], float]:
    """Mean over seeds of each prompt that all of them have."""
    keys = [key for key in per[0] if all(key in each for each in per)]
    return {key: sum(each[key] for each in per) / len(per) for key in keys}


def _common_step(members: Sequence[Member]) -> int | None:
    """The last step at which every evaluated run was evaluated."""
    steps = [{int(e["step"]) for e in m.evaluations.entries} for m in members if m.evaluations.entries]
    common = set.intersection(*steps)
    return max(common) if common else None


def _other_settings(members: Sequence[Member], step: int) -> str:
    """A sentence on evaluation settings that are not equal, the policy aside."""
    settings = [e.get("settings") for m in members for e in m.evaluations.entries if e["step"] == step]
    known = [s for s in settings if isinstance(s, dict)]
    keys = dict.fromkeys(key for s in known for key in s if key != "model")
    odd = [key for key in keys if len({str(s.get(key)) for s in known}) > 1]
    return f" Beware: the evaluations differ in {', '.join(odd)}." if odd else ""
