"""What speaks for a cause: predicates on the evidence of an autopsy.

Each returns how strongly it speaks (0: not at all; 1: a hint; 3: nearly certain) and the sentences that say
so, with numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rlvis.findings import Finding, Severity
from rlvis.report.autopsy.evidence import Evidence, State

Signs = tuple[float, list[str]]  # strength, and the sentences that speak for it
NOTHING: Signs = (0.0, [])


def showing(*names: str, each: float = 1.0, most: float = 3.0) -> Callable[[Evidence], Signs]:
    """The symptoms of these names add up, failures by half more, to `most`."""

    def signs(e: Evidence) -> Signs:
        symptoms = e.named(*names)
        strength = sum(each * (1.5 if s.severity is Severity.failure else 1.0) for s in symptoms)
        return min(strength, most), _sentences(symptoms)

    return signs


def telling(name: str, strength: float) -> Callable[[Evidence], Signs]:
    """A symptom that says it by itself."""

    def signs(e: Evidence) -> Signs:
        symptoms = e.named(name)
        return (strength, _sentences(symptoms)) if symptoms else NOTHING

    return signs


def _sentences(symptoms: list[Finding]) -> list[str]:
    return [f"step {symptom.step}: {symptom.what}" for symptom in symptoms]


def lr(e: Evidence, factor: float) -> str:
    return f"optim.lr={_lr(e) * factor:.1g}"


def _lr(e: Evidence) -> float:
    return float(e.setting("optim.lr", 3e-4))


def rate_too_high(e: Evidence) -> Signs:
    strength, sentences = showing(
        "reward-falls",
        "ratio-far",
        "kl-approx-grows",
        "kl-reference-grows",
        "gradient-jump",
        "spread-collapses",
    )(e)
    rollouts = [dump for dump in e.dumps if dump.get("stage") == "rollout"]
    if rollouts and not rollouts[0].get("weights"):
        strength += 1
        sentences = [*sentences, f"step {rollouts[0]['step']}: samples are not finite any more"]
    if strength:
        sentences = [*sentences, f"optim.lr is {_lr(e):g}, advantage.clip_range {clip(e)}"]
    return min(strength, 3.0), sentences


def clip(e: Evidence) -> str:
    return str(e.setting("advantage.clip_range", "null (1e-4)"))


def not_finite(e: Evidence) -> Signs:
    if not e.dumps:
        return NOTHING
    return 3.0, [sentence for dump in e.dumps for sentence in _place(dump)]


def _place(dump: dict[str, Any]) -> list[str]:
    """Where in a step the first number that is not finite is: rows, transition, module or layer."""
    sentences = [f"step {dump['step']}: {dump.get('what', 'not finite')}"]
    rows = dump.get("rows") or []
    prompts = {(r["prompt"], r["text"]) for r in rows}
    places = {(r["at"], r["sigma"]) for r in rows if r.get("at") is not None}
    if len(prompts) == 1:
        index, text = prompts.pop()
        sentences.append(
            f"all of the {len(rows)} named losses or samples belong to prompt {index} ({text!r})"
        )
    if len(places) == 1 and rows:
        at, sigma = places.pop()
        sentences.append(f"only transition {at} (sigma {sigma:.3f}) is hit")
    if dump.get("module") == "input":
        sentences.append("what goes into the policy is not finite already: states or text embeddings")
    elif dump.get("module"):
        weights = ", whose own weights are not finite" if dump.get("weights") else ""
        sentences.append(f"the first module whose output is not finite is {dump['module']}{weights}")
    elif rows:
        sentences.append("the policy's forward is finite: old log-probs, advantages or the ratio are not")
    elif dump.get("layers"):
        sentences.append(
            f"the forward is finite; the gradient is not in {', '.join(dump['layers'])}, so the last of "
            "them in the forward's order is where its backward breaks"
        )
    return sentences


def narrow(e: Evidence) -> Signs:
    dtype = e.setting("model.dtype", "float32")
    ratio = e.named("ratio-first")
    if dtype == "float32" or not (e.dumps or ratio or e.named("loss-not-finite", "gradient-not-finite")):
        return NOTHING
    return 2.5, [f"model.dtype={dtype}", *_sentences(ratio)]


def scorer(e: Evidence) -> Signs:
    symptoms = e.named("invalid-samples")
    if not symptoms:
        return NOTHING
    sentences = _sentences(symptoms)
    lost: dict[tuple[int, str], list[tuple[int, int]]] = {}
    most = max((p.get("valid") or 0 for line in e.details for p in line.get("prompts") or []), default=0)
    for line in e.details:
        for p in line.get("prompts") or []:
            lost.setdefault((p["prompt"], p["text"]), []).append((line["step"], most - (p.get("valid") or 0)))
    always = {key: visits for key, visits in lost.items() if all(missing for _, missing in visits)}
    hit = {key: visits for key, visits in lost.items() if any(missing for _, missing in visits)}
    for (index, text), visits in sorted(always.items(), key=lambda item: (item[1][0], item[0]))[:3]:
        missing = sum(count for _, count in visits)
        sentences.append(
            f"prompt {index} ({text!r}) loses samples at all of its {len(visits)} visits: {missing} of "
            f"{most * len(visits)}, first at step {visits[0][0]}"
        )
    if hit and len(hit) == len(always) <= 3:
        sentences.append("no other prompt is hit: the scorer fails on these prompts, not at random")
        return 3.0, sentences
    return (2.5 if symptoms[0].severity is Severity.failure else 1.5), sentences


def memory(e: Evidence) -> Signs:
    strength, sentences = 0.0, []
    if re.search(r"OutOfMemoryError|CUDA out of memory|not enough memory|MemoryError", f"{e.error}\n{e.log}"):
        strength = 3.0
        sentences.append(e.error.splitlines()[0][:200] if e.error else "the log says out of memory")
    peak, size = e.last("memory/max_gib"), e.run.manifest.get("hardware", {}).get("gpu_gib")
    if peak and size and peak > 0.92 * size and e.state in (State.crashed, State.killed):
        strength = max(strength, 1.5)
        sentences.append(f"the peak was {peak:.1f} of {size} GiB on the device")
    grown = e.named("memory-grows")
    return max(strength, 1.0 if grown else 0.0), [*sentences, *_sentences(grown)]


def killed(e: Evidence) -> Signs:
    if e.state is not State.killed:
        return NOTHING
    sentences = [f"no exit.json and no lock: the process ended without a word after step {e.run.steps}"]
    if re.search(r"\bKilled\b|oom-kill|Out of memory: Kill", e.log):
        return 3.0, [*sentences, "the log says Killed"]
    return 2.0, sentences


def disk(e: Evidence) -> Signs:
    if re.search(r"No space left on device|Disk quota exceeded", f"{e.error}\n{e.log}"):
        return 3.0, [e.error.splitlines()[0][:200] if e.error else "the log says that no space is left"]
    return NOTHING


def error(e: Evidence) -> Signs:
    if not e.error or e.dumps or memory(e)[0] >= 3 or disk(e)[0] or e.state is State.interrupted:
        return NOTHING
    frames = e.exits[0].get("frames") or [f for x in e.exits for f in x.get("frames") or []]
    at = [f"raised at {frames[-1]}"] if frames else []
    return 2.0, [e.error.splitlines()[0][:300], *at]


def no_gradient(e: Evidence) -> Signs:
    series = e.run.series("update/grad_norm").finite
    if len(series) >= 3 and not series.value.any():
        return 3.0, [f"update/grad_norm is 0 in all {len(series)} steps"]
    still = [
        name
        for name in (e.details[-1].get("layers") or {} if e.details else {})
        if len(e.details) >= 3 and not any(float(line["layers"].get(name) or 0) for line in e.details)
    ]
    if still:
        return 1.0, [f"the gradient of {', '.join(still[:4])} is 0 in all {len(e.details)} steps"]
    return NOTHING


def alike(e: Evidence) -> Signs:
    inside, over = e.run.series("group/std_mean").finite, e.run.series("reward/std").finite
    if len(inside) < 5 or len(over) < 5 or not over.value[:5].mean() > 0:
        return NOTHING
    share = float(inside.value[:5].mean() / over.value[:5].mean())
    if share >= 0.05:
        return NOTHING
    sentences = [f"from the start the spread inside groups is {share:.1%} of that over all samples"]
    if e.setting("sampler.share_noise"):
        sentences.append("sampler.share_noise=true gives a group one initial noise")
    return 1.5, sentences


def sampler_gap(e: Evidence) -> Signs:
    training, evaluation = e.setting("sampler.steps"), e.setting("eval.steps")
    if not e.named("held-out-falls") or training is None or training == evaluation:
        return NOTHING
    against = f"{evaluation}" if evaluation else "the pipeline's default number of"
    return 1.0, [
        f"training samples in {training} steps, the evaluation in {against} steps of another sampler"
    ]


def doctor(e: Evidence) -> Signs:
    worst = _worst(e.doctor)
    if not worst or not (e.symptoms or e.dumps or e.state in (State.crashed, State.killed)):
        return NOTHING
    sentences = [f"{finding.name}: {finding.what}" for finding in worst]
    return (2.5 if worst[0].severity is Severity.failure else 1.0), sentences


def doctor_types(e: Evidence) -> str:
    types = [finding.type for finding in _worst(e.doctor) if finding.type]
    return "; ".join(types) or "rlvis doctor with the same overrides"


def _worst(findings: list[Finding]) -> list[Finding]:
    """The failures; all of them where there is none."""
    return [f for f in findings if f.severity is Severity.failure] or findings
