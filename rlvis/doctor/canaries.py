"""What scorers say of the same samples again, in another order, alone, with the prompts of others."""

from __future__ import annotations

import torch

from rlvis.doctor.diagnosis import failure, ok, warning
from rlvis.doctor.probe import Probe
from rlvis.doctor.rewards import spread
from rlvis.findings import Finding, Number
from rlvis.reward.canaries.questions import Consistency, ask, compare
from rlvis.trust.groups import statistics


def canaries(probe: Probe) -> list[Finding]:
    """A finding for each term and question that came out wrong, or one that says how it takes prompts; a
    collective.
    """
    findings: list[Finding] = []
    rewards, retries = probe.rewards, probe.parts.config.train.score_retries
    prompt = probe.trajectories.prompt.tolist()
    for i, term in enumerate(probe.parts.terms):
        answers = ask(term, probe.prompts, prompt, probe.media, retries, rewards.latency[i])
        column = rewards.term[..., i]
        good = torch.isfinite(column)
        inside = float(spread(statistics(torch.where(good, column, 0.0)[..., None], good)))
        whole = float(column[good].std()) if int(good.sum()) > 1 else 0.0
        var = rewards.noise_var
        states_noise = var is not None and bool(torch.isfinite(var[..., i]).any())
        findings.append(judge(term.name, compare(answers, whole), inside, states_noise))
    return findings


def judge(name: str, came: Consistency | None, inside: float, states_noise: bool) -> Finding:
    """One scorer's answers.

    came: what they come to. inside: standard deviation of its scores inside groups. states_noise: whether it
    reports its own noise.
    """
    check, key = f"scorer {name}", f"reward.terms.{name}.scorer"
    if came is None:
        return ok(check, "too few scores to ask about")
    std = came.noise_std
    numbers: dict[str, Number] = {"asked": came.asked, "noise_std": std, "within": inside}
    if came.mixed_up:
        numbers["moved"] = came.swapped
        what = f"{came.swapped} of {came.asked} scores change when the same samples come in another order"
        if not came.swapped:
            what = "two equal calls give the same scores to other samples"
        why = "scores reach other samples than they were made for: the policy is taught by chance"
        kind = f"{key}=SCORER that returns scores in the order of its images"
        return failure(check, what, numbers, why=why, type=kind)
    if came.neighbours is not None:
        numbers["alone"] = came.neighbours
        what = f"a sample alone scores up to {came.neighbours:.3g} otherwise than among others"
        why = "a score that depends on its neighbours changes with the micro-batch and the number of ranks"
        kind = f"{key}=SCORER that judges every sample for itself"
        return warning(check, what, numbers, why=why, type=kind)
    noise = f"noise of {std:.3g} between equal calls ({inside:.3g} inside groups)"
    if std > inside and not states_noise:
        why = "the differences inside a group are the scorer's mood more than the samples'"
        kind = f"{key}=SCORER that averages several calls, or trust=ras prior=moving_average"
        return warning(check, noise, numbers, why=why, type=kind)
    what = f"{came.asked} scores stay the same again, reordered and alone" if std == 0 else noise
    numbers["prompts_matter"] = came.prompts_matter
    prompts = "it does not look at prompts"
    if came.prompts_matter:
        right, wrong = came.means
        prompts = f"mean {right:.3g} with their own prompts, {wrong:.3g} with others"
    return ok(check, f"{what}; {prompts}", numbers)
