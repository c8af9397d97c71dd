"""What speaks for a cause: predicates on the evidence of an autopsy.

Each returns how strongly it speaks (0: not at all; 1: a hint; 3: nearly certain) and the sentences that say
so, with numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from rlvis.report.autopsy_evidence import CRASHED, INTERRUPTED, KILLED, Evidence

Found = tuple[float, list[str]]
NOTHING: Found = (0.0, [])


def symptoms(*names: str, each: float = 1.0, most: float = 3.0) -> Callable[[Evidence], Found]:
    def looks(e: Evidence) -> Found:
        found = e.of(*names)
        strength = sum(each * (1.5 if s.severity == "broken" else 1.0) for s in found)
        return min(strength, most), [f"step {s.step}: {s.what}" for s in found]

    return looks


def lr(e: Evidence, factor: float) -> str:
    return f"optim.lr={float(e.told('optim.lr', 3e-4)) * factor:.1g}"


def rate_too_high(e: Evidence) -> Found:
    strength, told = symptoms(
        "reward-falls",
        "ratio-far",
        "kl-approx-grows",
        "kl-reference-grows",
        "gradient-jump",
        "spread-collapses",
    )(e)
    rollouts = [b for b in e.broken if b.get("stage") == "rollout"]
    if rollouts and not rollouts[0].get("weights"):
        strength, told = strength + 1, [*told, f"step {rollouts[0]['step']}: samples are not finite any more"]
    if strength:
        told = [*told, f"optim.lr is {float(e.told('optim.lr', 3e-4)):g}, advantage.clip_range {clip(e)}"]
    return min(strength, 3.0), told


def clip(e: Evidence) -> str:
    return str(e.told("advantage.clip_range", "null (1e-4)"))


def not_finite(e: Evidence) -> Found:
    if not e.broken:
        return NOTHING
    told = []
    for b in e.broken:
        told.append(f"step {b['step']}: {b.get('what', 'not finite')}")
        rows = b.get("rows") or []
        prompts = {(r["prompt"], r["text"]) for r in rows}
        places = {(r["at"], r["sigma"]) for r in rows if r.get("at") is not None}
        if len(prompts) == 1:
            index, text = prompts.pop()
            told.append(f"all of the {len(rows)} named losses or samples belong to prompt {index} ({text!r})")
        if len(places) == 1 and rows:
            at, sigma = places.pop()
            told.append(f"only transition {at} (sigma {sigma:.3f}) is hit")
        if b.get("module") == "input":
            told.append("what goes into the policy is not finite already: states or text embeddings")
        elif b.get("module"):
            own = ", whose own weights are not finite" if b.get("weights") else ""
            told.append(f"the first module whose output is not finite is {b['module']}{own}")
        elif rows:
            told.append("the policy's forward is finite: old log-probs, advantages or the ratio are not")
        elif b.get("layers"):
            told.append(
                f"the forward is finite; the gradient is not in {', '.join(b['layers'])}, so the last of "
                "them in the forward's order is where its backward breaks"
            )
    return 3.0, told


def narrow(e: Evidence) -> Found:
    dtype = e.told("model.dtype", "float32")
    ratio = e.of("ratio-first")
    if dtype == "float32" or not (e.broken or ratio or e.of("loss-not-finite", "gradient-not-finite")):
        return NOTHING
    told = [f"model.dtype={dtype}", *(f"step {s.step}: {s.what}" for s in ratio)]
    return 2.5, told


def scorer(e: Evidence) -> Found:
    found = e.of("invalid-samples")
    if not found:
        return NOTHING
    told = [f"step {s.step}: {s.what}" for s in found]
    lost: dict[tuple[int, str], list[tuple[int, int]]] = {}
    most = max((p.get("valid") or 0 for line in e.details for p in line.get("prompts") or []), default=0)
    for line in e.details:
        for p in line.get("prompts") or []:
            lost.setdefault((p["prompt"], p["text"]), []).append((line["step"], most - (p.get("valid") or 0)))
    always = {key: visits for key, visits in lost.items() if all(missing for _, missing in visits)}
    hit = {key: visits for key, visits in lost.items() if any(missing for _, missing in visits)}
    for (index, text), visits in sorted(always.items(), key=lambda item: (item[1][0], item[0]))[:3]:
        missing = sum(count for _, count in visits)
        told.append(
            f"prompt {index} ({text!r}) loses samples at all of its {len(visits)} visits: {missing} of "
            f"{most * len(visits)}, first at step {visits[0][0]}"
        )
    if hit and len(hit) == len(always) <= 3:
        told.append("no other prompt is hit: the scorer fails on these prompts, not at random")
        return 3.0, told
    return (2.5 if found[0].severity == "broken" else 1.5), told


def memory(e: Evidence) -> Found:
    text = f"{e.error}\n{e.log}"
    told = []
    strength = 0.0
    if re.search(r"OutOfMemoryError|CUDA out of memory|not enough memory|MemoryError", text):
        strength = 3.0
        told.append(e.error.splitlines()[0][:200] if e.error else "the log says out of memory")
    peak, size = e.last("memory/max_gib"), e.run.manifest.get("hardware", {}).get("gpu_gib")
    if peak and size and peak > 0.92 * size and e.state in (CRASHED, KILLED):
        strength = max(strength, 1.5)
        told.append(f"the peak was {peak:.1f} of {size} GiB on the device")
    grown = e.of("memory-grows")
    told += [f"step {s.step}: {s.what}" for s in grown]
    return max(strength, 1.0 if grown else 0.0), told


def killed(e: Evidence) -> Found:
    if e.state != KILLED:
        return NOTHING
    told = [f"no exit.json and no lock: the process ended without a word after step {e.run.steps}"]
    if re.search(r"\bKilled\b|oom-kill|Out of memory: Kill", e.log):
        return 3.0, [*told, "the log says Killed"]
    return 2.0, told


def disk(e: Evidence) -> Found:
    if re.search(r"No space left on device|Disk quota exceeded", f"{e.error}\n{e.log}"):
        return 3.0, [e.error.splitlines()[0][:200] if e.error else "the log says that no space is left"]
    return NOTHING


def error(e: Evidence) -> Found:
    if not e.error or e.broken or memory(e)[0] >= 3 or disk(e)[0] or e.state == INTERRUPTED:
        return NOTHING
    frames = e.exits[0].get("frames") or [f for x in e.exits for f in x.get("frames") or []]
    at = [f"raised at {frames[-1]}"] if frames else []
    return 2.0, [e.error.splitlines()[0][:300], *at]


def no_gradient(e: Evidence) -> Found:
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


def alike(e: Evidence) -> Found:
    inside, over = e.run.series("group/std_mean").finite, e.run.series("reward/std").finite
    if len(inside) < 5 or len(over) < 5 or not over.value[:5].mean() > 0:
        return NOTHING
    share = float(inside.value[:5].mean() / over.value[:5].mean())
    if share >= 0.05:
        return NOTHING
    told = [f"from the start the spread inside groups is {share:.1%} of that over all samples"]
    if e.told("sampler.share_noise"):
        told.append("sampler.share_noise=true gives a group one initial noise")
    return 1.5, told


def sampler_gap(e: Evidence) -> Found:
    own, other = e.told("sampler.steps"), e.told("eval.steps")
    found = e.of("held-out-falls")
    if not found or own is None or own == other:
        return NOTHING
    against = f"{other}" if other else "the pipeline's default number of"
    return 1.0, [f"training samples in {own} steps, the evaluation in {against} steps of another sampler"]


def doctor(e: Evidence) -> Found:
    failures = [f for f in e.doctor if f["level"] == "failure"]
    told = [f"{f.get('check')}: {f.get('what')}" for f in (failures or e.doctor)]
    if not told or not (e.symptoms or e.broken or e.state in (CRASHED, KILLED)):
        return NOTHING
    return (2.5 if failures else 1.0), told


def doctor_types(e: Evidence) -> str:
    failures = [f for f in e.doctor if f["level"] == "failure"] or e.doctor
    return (
        "; ".join(str(f["type"]) for f in failures if f.get("type")) or "rlvis doctor with the same overrides"
    )
