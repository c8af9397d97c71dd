"""The first thing on the page: for each measure and arm one sentence on who wins, by how much, or that it
cannot be told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rlvis.evaluation.statistics import LEAST_SEEDS, LEVEL, Bounds, Comparison, holm
from rlvis.report import wording
from rlvis.report.compare.measured import Measure, Result, Several, final_rewards, reward_against
from rlvis.report.panels.base import Panel

SIGNS = {"better": "\u25b2", "worse": "\u25bc", "open": "\u2248"}


@dataclass(frozen=True)
class Sentence:
    """kind: better, worse or open (cannot be told)."""

    kind: str
    text: str

    @property
    def sign(self) -> str:
        """What tells the kinds apart without their colours."""
        return SIGNS[self.kind]


def outcome(several: Several) -> Panel | None:
    """A sentence for each measure and arm; None where there is one arm alone."""
    if len(several.arms) < 2:
        return None
    measured = several.measured
    if measured is None:
        return _rewards(several)
    said = [s for each in measured.measures if not each.detail for s in sentences(each, several.base.label)]
    notes = [] if measured.step is None else [f"Held-out prompts after {measured.step} training steps."]
    runs = {
        r.against.seeds for m in measured.measures for r in m.results if r.against and not r.against.doubt
    }
    if any(seeds < LEAST_SEEDS for seeds in runs):
        notes.append(
            f"With fewer than {LEAST_SEEDS} seeds an interval is over prompts alone: it says what these runs "
            "learned, not what the method does with another seed."
        )
    if len(several.others) > 1:
        notes.append(
            f"Arms count as apart at p <= {LEVEL:g}, by Holm's correction for {len(several.others)} arms."
        )
    return Panel("", "outcome", said, " ".join([*notes, *measured.notes]))


def sentences(measure: Measure, base: str) -> Iterator[Sentence]:
    """One for each arm but the base."""
    for result in measure.results:
        if result.arm.label != base:
            yield _sentence(result, base, f"held-out {measure.name}")


def _sentence(result: Result, base: str, what: str) -> Sentence:
    arm, compared = result.arm.label, result.against
    if compared is None:
        return Sentence("open", f"{arm} and {base} share no prompt, so {what} cannot be compared.")
    if not compared.differing:
        counts = wording.counts(compared.prompts, compared.seeds)
        return Sentence("open", f"{arm} and {base} are equal on {what}: the same on all {counts}.")
    size = wording.size(compared)
    if compared.doubt:
        return Sentence("open", f"{_together(arm, base)} on {what}: {size}, {compared.doubt}.")
    inside = f"95 % {wording.between(compared.bounds)}, {_counts(result, compared)}"
    if result.p > LEVEL:
        alone = compared.bounds.p <= LEVEL
        why = f"p = {result.p:.2g} after Holm's correction" if alone else _narrower(compared)
        return Sentence("open", f"{_together(arm, base)} on {what}: {size} ({inside}); {why}.")
    up = compared.difference > 0
    who = f"{arm} {'beats' if up else 'loses to'} {base}"
    if not (compared.over_seeds and result.paired):  # of these runs that is known, of the methods it is not
        who = f"The {arm} run{'s' * (compared.seeds > 1)} {'did better' if up else 'did worse'} than {base}'s"
    return Sentence("better" if up else "worse", f"{who} on {what} by {size} ({inside}).")


def _together(arm: str, base: str) -> str:
    return f"{arm} and {base} cannot be told apart"


def _counts(result: Result, compared: Comparison) -> str:
    if not result.paired:
        return f"{compared.prompts} prompts; no seed in common"
    seeds = f"{compared.seeds} seed{'s' * (compared.seeds > 1)}"
    counted = "" if compared.over_seeds else ", over prompts alone"
    return f"{compared.prompts} prompts x {seeds}{counted}"


def _narrower(compared: Comparison) -> str:
    """Which of the two the interval owes its width to."""
    prompts, seeds = compared.bounds.parts
    if not compared.over_seeds:
        return "more prompts would narrow this, and three seeds count what seeds do"
    if seeds > prompts:
        return "more seeds would narrow this most"
    return "more prompts would narrow this most"


def _rewards(several: Several) -> Panel:
    """The same of the rewards that the arms were trained on; nothing where these are not one measure."""
    if len({member.rewarded_by for member in several.members}) > 1:
        note = (
            "The arms were trained on different rewards and on no held-out prompts, so nothing says which is "
            "better; type eval=shapes eval.every=20, or eval.terms, for what does."
        )
        return Panel("", "outcome", [], note)
    rewards = final_rewards(several)
    if not any(member.label in rewards for member in several.base.members):
        return Panel("", "outcome", [], f"No reward of {several.base.label} was written to compare with.")
    said = list(_of_rewards(several, rewards))
    note = (
        "No run was evaluated on held-out prompts: this is the reward that was trained on, its mean over the "
        "last tenth of the steps, where a policy that games its scorer looks well too. Intervals are "
        f"Student's over seeds, from {LEAST_SEEDS} on."
    )
    return Panel("", "outcome", said, note)


def _of_rewards(several: Several, rewards: Mapping[str, float]) -> Iterator[Sentence]:
    known = [arm for arm in several.others if any(m.label in rewards for m in arm.members)]
    found = [reward_against(several, arm, rewards) for arm in known]
    p = holm([bounds.p for _, bounds, _ in found])
    for arm, (difference, bounds, seeds), value in zip(known, found, p, strict=True):
        yield _reward(arm.label, several.base.label, difference, bounds, seeds, value)


def _reward(arm: str, base: str, difference: float, bounds: Bounds, seeds: int, p: float) -> Sentence:
    what = "the reward trained on"
    if not bounds.known:
        size = wording.signed(difference, abs(difference))
        why = f"{seeds} seed{'s' * (seeds != 1)} in common, too few for an interval"
        if seeds >= LEAST_SEEDS:
            why = f"the same on all {seeds} seeds, no spread for an interval"
        return Sentence("open", f"{_together(arm, base)} on {what}: {size}, {why}.")
    size = wording.signed(difference, (bounds.high - bounds.low) / 2)
    inside = f"95 % {wording.between(bounds)}, {seeds} seeds"
    if p > LEVEL:
        return Sentence("open", f"{_together(arm, base)} on {what}: {size} ({inside}).")
    up = difference > 0
    verb = "beats" if up else "loses to"
    return Sentence("better" if up else "worse", f"{arm} {verb} {base} on {what} by {size} ({inside}).")
