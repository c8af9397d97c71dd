"""Which groups were trusted, and why: weights over steps, prompts at both ends, groups in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rlvis.observe.trust_table import NAME as TRUST_FILE
from rlvis.report import extremes, groups, pictures, plots
from rlvis.report.folder import RunFolder
from rlvis.report.panels.base import Context, Drawing, Panel, Table, drawing, named, num, short
from rlvis.report.panels.gallery import Block, Row, cards, left_out
from rlvis.report.pictures import Budget
from rlvis.trust.form import about

LISTED = 8  # prompts at either end of the table
CUT = 120  # characters of a prompt in the table
STEPS = 4  # steps with pictures
SAMPLES = 8  # pictures of a group
GROUPS = 4  # groups at either end
BUDGET = 1_000_000  # bytes of base64
NUMBERS = ("weight", "mean", "std", "prior_mean", "prior_var")  # columns of the tables


def trust(context: Context) -> Panel | None:
    """The spread of group weights over steps, and the prompts at both ends; None for a run without trust."""
    run = context.run
    path = run.path / TRUST_FILE
    if not path.is_file():
        return None
    prompts, lost = groups.read(path)
    note = f"Lines of {TRUST_FILE} that cannot be read and were left out: {lost}." if lost else ""
    parts = [Panel("", "figures", _figures(run), about(str(run.setting("trust.kind"))))]
    split = min(LISTED, (len(prompts) + 1) // 2)
    most, least = prompts[:split], prompts[max(split, len(prompts) - LISTED) :]
    for title, chosen in (("Most trusted prompts", most), ("Least trusted prompts", least[::-1])):
        if chosen:
            parts.append(Panel(title, "table", _table(chosen)))
    if prompts:
        meaning = "Means over all groups of a prompt so far; rewards are raw. Gap: group mean - prior mean."
        parts[-1] = replace(parts[-1], note=meaning)
    return Panel("", "parts", parts, note if prompts else f"No group in {TRUST_FILE} was scored. {note}")


def pictured(context: Context) -> Panel | None:
    """The most and least trusted groups of chosen steps with their samples; None where none were kept."""
    steps, _ = extremes.read(context.run.path)
    steps = [step for step in steps if step.most_trusted or step.least_trusted]
    if not steps:
        return None
    chosen = [steps[i] for i in pictures.spread(len(steps), STEPS)]
    budget = Budget(BUDGET * context.room)
    count = sum(
        len(group.samples[:SAMPLES])
        for step in chosen
        for group in [*step.most_trusted[:GROUPS], *step.least_trusted[:GROUPS]]
    )
    share = budget.left / max(1, count)
    blocks = []
    for step in reversed(chosen):
        ends = (("Most trusted", step.most_trusted), ("Least trusted", step.least_trusted))
        rows = [
            Row(
                f"{title}: {short(group.text, CUT)}",
                [
                    replace(card, text="", details=f"sample {sample.sample}")
                    for sample, card in zip(
                        group.samples[:SAMPLES],
                        cards(group.samples[:SAMPLES], budget, share, 96),
                        strict=True,
                    )
                ],
                why(group),
                small=True,
            )
            for title, listed in ends
            for group in listed[:GROUPS]
        ]
        blocks.append(Block(step.step, rows))
    return Panel("Groups with their samples", "blocks", blocks, " ".join(left_out(budget)))


def why(group: extremes.Group) -> str:
    """What a group's weight was made of, in words."""
    parts = [f"Weight {num(group.weight, 3)} for {group.objective or 'its objective'}"]
    if group.mean is not None:
        spread = f" +- {num(group.std, 3)}" if group.std is not None else ""
        parts.append(f"group mean {num(group.mean, 3)}{spread}")
    if group.prior_mean is None:
        parts.append("no prior to compare with yet")
    else:
        spread = f" +- {num(max(group.prior_var, 0.0) ** 0.5, 3)}" if group.prior_var is not None else ""
        parts.append(f"prior {num(group.prior_mean, 3)}{spread}")
        if group.mean is not None:
            gap = group.mean - group.prior_mean
            parts.append(f"{num(abs(gap), 3)} {'above' if gap >= 0 else 'below'} it")
    return ", ".join(parts) + "."


def _figures(run: RunFolder) -> list[Drawing]:
    weights = named(run, {name: f"trust/weight_{name}" for name in ("max", "mean", "min")})
    size = {"effective groups": run.series("trust/effective_groups")}
    gaps = named(run, {"of the groups": "trust/prior_gap", "of the posterior": "trust/posterior_gap"})
    drawings = [
        drawing(
            "Group weights",
            lambda: plots.lines("trust-weight", weights, ylabel="weight of a group"),
            "A group's weight multiplies the advantages of its samples.",
        ),
        drawing(
            "Effective groups",
            lambda: plots.lines("trust-groups", size, ylabel="effective groups"),
            "(sum w)^2 / (sum w^2): how many groups carry the update. Equal weights give all of them.",
        ),
    ]
    if any(len(series) for series in gaps.values()):
        drawings.append(
            drawing(
                "Distance from the prior",
                lambda: plots.lines("trust-gap", gaps, ylabel="reward"),
                "Mean |mean - prior mean|, of the groups as they are and of their posterior.",
            )
        )
    return drawings


def _table(chosen: Sequence[groups.Trusted]) -> Table:
    numbers = (name.replace("_", " ") for name in NUMBERS)
    header = ("prompt", "objective", *numbers, "gap", "posterior", "groups")
    rows = []
    for t in chosen:
        gap = "-" if t.gap is None else f"{t.gap:+.4g}"
        values = [*(num(t.average(name)) for name in NUMBERS), gap, num(t.average("posterior_mean"))]
        rows.append((short(t.text, CUT), t.objective, *values, str(t.groups)))
    if all(row[8] == "-" for row in rows):
        header = header[:8] + header[9:]
        rows = [row[:8] + row[9:] for row in rows]
    return Table(header, rows, frozenset(range(2, len(header))), frozenset({0}))
