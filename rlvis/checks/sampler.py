"""What must hold inside `sampler`: a kernel with a log-prob, and a window that trains something and fits the
steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from rlvis.findings import Finding, mistake
from rlvis.flow.progressive import first_empty
from rlvis.flow.windows import trained_transitions
from rlvis.schema import KernelName, ModelConfig, NoiseName, SamplerConfig, WindowConfig, WindowKind

# Which keys of sampler.window each kind reads; another one that is set would do nothing.
WINDOW_KEYS: dict[WindowKind, set[str]] = {
    WindowKind.all: set(),
    WindowKind.random_subset: {"per_sample"},
    WindowKind.fixed: {"start", "size"},
    WindowKind.random_window: {"size", "low", "high", "per_sample"},
    WindowKind.progressive: {"size", "high", "iters_per_group", "stride", "roll_back"},
}
# Families of variance-preserving diffusion; the others follow the straight path of a flow.
DIFFUSION_FAMILIES = {"cogvideox", "sd15", "sdxl"}


def _high(sampler: SamplerConfig) -> int:
    """One past the last transition that a moving window may hold."""
    return sampler.steps - 1 if sampler.window.high is None else sampler.window.high


def kernel_errors(sampler: SamplerConfig, model: ModelConfig) -> Iterator[Finding]:
    """What is wrong with kernel, noise, grid and number of steps."""
    kernel = sampler.kernel
    if kernel is KernelName.ode:
        yield mistake(
            "sampler.kernel=ode is deterministic: its steps have no log-prob, so nothing can be trained",
            "sampler.kernel=sde, or sampler.kernel=cps",
        )
    if sampler.steps < 2:
        yield mistake(
            f"sampler.steps={sampler.steps}: the last step is deterministic and never trained, so at least 2 "
            "are needed",
            "sampler.steps=8",
        )
    if kernel is not KernelName.ode and not 0 < sampler.eta < math.inf:
        yield mistake(
            f"sampler.eta={sampler.eta} adds no noise, so there is no log-prob to train", "sampler.eta=0.7"
        )
    elif kernel is KernelName.cps and sampler.eta >= 1:
        yield mistake(
            f"sampler.eta={sampler.eta} with sampler.kernel=cps: the noise is sigma_next * sin(eta * pi / "
            "2), so eta must be below 1",
            "sampler.eta=0.8",
        )
    if kernel is not KernelName.sde and sampler.noise is not NoiseName.flow:
        yield mistake(
            f"sampler.noise={sampler.noise.value} does nothing with sampler.kernel={kernel.value}, whose "
            "noise has one form",
            "sampler.noise=flow or sampler.kernel=sde",
        )
    if model.family in DIFFUSION_FAMILIES:
        yield from _diffusion(sampler, model.family)
    if sampler.grid not in ("model", "linear"):
        yield mistake(f"sampler.grid={sampler.grid}: wanted model or linear", "sampler.grid=model")
    if sampler.shift is not None and not 0 < sampler.shift < math.inf:
        yield mistake(
            f"sampler.shift={sampler.shift}: wanted null (the checkpoint's own) or a positive number",
            "sampler.shift=3",
        )


def _diffusion(sampler: SamplerConfig, family: str) -> Iterator[Finding]:
    """What a variance-preserving model does not take."""
    if sampler.kernel is KernelName.sde:
        yield mistake(
            f"sampler.kernel=sde is derived for flows (alpha = 1 - sigma), and model.family={family} is a "
            "variance-preserving diffusion",
            "sampler=ddim",
        )
    if sampler.grid != "model" or sampler.shift is not None:
        shift = "null" if sampler.shift is None else sampler.shift
        yield mistake(
            f"sampler.grid={sampler.grid}, sampler.shift={shift}: model.family={family} is sampled on DDIM's "
            "own grid, which has no shift",
            "sampler.grid=model sampler.shift=null",
        )


def window_errors(sampler: SamplerConfig, train_steps: int) -> Iterator[Finding]:
    """What is wrong with the choice of trained transitions over `train_steps` training steps."""
    window, last = sampler.window, sampler.steps - 1
    if last < 1:
        return  # reported as too few steps
    kind = window.kind.value
    for field in dataclasses.fields(WindowConfig):
        value = getattr(window, field.name)
        if field.name != "kind" and field.name not in WINDOW_KEYS[window.kind] and value != field.default:
            default = "null" if field.default is None else str(field.default).lower()
            yield mistake(
                f"sampler.window.{field.name}={value} does nothing with sampler.window.kind={kind}",
                f"sampler.window.{field.name}={default} or another sampler.window.kind",
            )
    if window.kind is not WindowKind.random_subset and sampler.timestep_fraction != 1.0:
        yield mistake(
            f"sampler.timestep_fraction={sampler.timestep_fraction} does nothing with "
            f"sampler.window.kind={kind}",
            "sampler.window.kind=random_subset or sampler.timestep_fraction=1",
        )
    ends = f"the last of sampler.steps={sampler.steps} transitions is never trained"
    high = _high(sampler)
    if window.kind is WindowKind.random_subset and not 1 <= trained_transitions(sampler) <= last:
        yield mistake(
            f"sampler.timestep_fraction={sampler.timestep_fraction} of {last} trainable transitions is "
            f"{trained_transitions(sampler)}",
            "sampler.timestep_fraction=1",
            why=f"{ends}, so it must leave at least one and be at most 1",
        )
    elif window.kind is WindowKind.fixed and (
        window.start < 0 or window.size < 1 or window.start + window.size > last
    ):
        start = min(max(window.start, 0), last - 1)
        size = max(1, min(window.size, last - start))
        yield mistake(
            f"a fixed window of sampler.window.size={window.size} from sampler.window.start={window.start} "
            f"ends at {window.start + window.size}",
            f"sampler.window.start={start} sampler.window.size={size}",
            why=f"{ends}, so start + size must be at most {last}",
        )
    elif window.kind is WindowKind.random_window and not (
        window.size >= 1 and window.low >= 0 and high <= last and window.size <= high - window.low
    ):
        low = min(max(window.low, 0), last - 1)
        room = max(min(high, last), low + 1) - low
        yield mistake(
            f"a random window of sampler.window.size={window.size} does not fit between "
            f"sampler.window.low={window.low} and high={high}",
            f"sampler.window.low={low} sampler.window.high={low + room} "
            f"sampler.window.size={max(1, min(window.size, room))}",
            why=f"{ends}, so high must be at most {last} and high - low at least size",
        )
    elif window.kind is WindowKind.progressive:
        yield from _progressive(window, high, last, train_steps)


def _progressive(window: WindowConfig, high: int, last: int, train_steps: int) -> Iterator[Finding]:
    wrong = {
        "size": window.size if not 1 <= window.size <= last else None,
        "iters_per_group": window.iters_per_group if window.iters_per_group < 1 else None,
        "stride": window.stride if window.stride < 1 else None,
        "high": high if not 1 <= high <= last else None,
    }
    remedy = {"size": str(min(2, last)), "iters_per_group": "25", "stride": "1", "high": "null"}
    bad = {key: value for key, value in wrong.items() if value is not None}
    if bad:
        yield mistake(
            "a progressive window needs size, iters_per_group, stride and high of at least 1, and size and "
            f"high of at most {last} (the last transition is never trained), got "
            f"{', '.join(f'{key}={value}' for key, value in bad.items())}",
            " ".join(f"sampler.window.{key}={remedy[key]}" for key in bad),
        )
        return
    empty = first_empty(
        last + 1, train_steps, window.size, window.iters_per_group, window.stride, window.roll_back, high
    )
    if empty is not None:
        yield mistake(
            f"the progressive window has moved past its last transition after {empty} training steps and "
            f"would train nothing, but train.steps={train_steps}",
            f"train.steps={empty}, or raise sampler.window.iters_per_group to "
            f"{math.ceil(window.iters_per_group * train_steps / empty)}",
        )
