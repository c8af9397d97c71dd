"""What must hold inside `sampler`: a kernel with a log-prob that fits the model's path, and a window that
trains something and fits the steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from rlvis.checks.model import family_of
from rlvis.findings import ConfigError, Finding, mistake
from rlvis.flow.progressive import first_empty
from rlvis.flow.windows import trained_transitions
from rlvis.schema import ModelConfig, SamplerConfig, WindowConfig, WindowKind


def kernel_errors(sampler: SamplerConfig, model: ModelConfig) -> Iterator[Finding]:
    """What is wrong with kernel, noise and grid, asked of the kernel and of the family's class.

    Both are imported here, with torch; no weight is read.
    """
    from rlvis.flow import configured

    family = family_of(model)
    curved = family is not None and family.variance_preserving
    if curved:
        yield from _grid(sampler, model.family)
    try:
        kernel = configured.kernel(sampler, family.prediction if family is not None else "flow")
        if "noise" not in kernel.settings and sampler.noise != SamplerConfig.noise:
            yield mistake(
                f"sampler.noise={sampler.noise} does nothing with sampler.kernel={sampler.kernel}, whose "
                "noise has one form",
                f"sampler.noise={SamplerConfig.noise} or sampler.kernel={SamplerConfig.kernel}",
            )
        if curved and kernel.needs_flow:
            yield mistake(
                f"sampler.kernel={sampler.kernel} is derived for flows (alpha = 1 - sigma), and "
                f"model.family={model.family} is a variance-preserving diffusion",
                "sampler=ddim",
            )
            return
        noisy = bool((configured.rehearsal(kernel, sampler.steps, curved=curved).std > 0).any())
    except ConfigError as error:
        yield from error.findings
        return
    if "eta" in kernel.settings:
        if not noisy:
            yield mistake(
                f"sampler.eta={sampler.eta:g} with sampler.kernel={sampler.kernel} adds no noise, so there "
                "is no log-prob to train",
                "sampler.eta=0.7",
            )
    elif not noisy:
        yield mistake(
            f"sampler.kernel={sampler.kernel} is deterministic: its steps have no log-prob, so nothing can "
            "be trained",
            f"sampler.kernel={SamplerConfig.kernel}",
        )
    elif sampler.eta != SamplerConfig.eta:
        yield mistake(
            f"sampler.eta={sampler.eta:g} does nothing with sampler.kernel={sampler.kernel}, which has none",
            f"sampler.eta={SamplerConfig.eta:g}",
        )


def _grid(sampler: SamplerConfig, family: str) -> Iterator[Finding]:
    """What the noise levels of a variance-preserving model do not have."""
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
    ends = f"the last of sampler.steps={sampler.steps} transitions is never trained"
    high = last if window.high is None else window.high
    if window.kind is WindowKind.random_subset and trained_transitions(sampler) < 1:
        yield mistake(
            f"sampler.timestep_fraction={sampler.timestep_fraction} of {last} trainable transitions is 0",
            "sampler.timestep_fraction=1",
            why=f"{ends}, and the fraction must leave at least one",
        )
    elif window.kind is WindowKind.fixed and window.start + window.size > last:
        start = min(window.start, last - 1)
        size = min(window.size, last - start)
        yield mistake(
            f"a fixed window of sampler.window.size={window.size} from sampler.window.start={window.start} "
            f"ends at {window.start + window.size}",
            f"sampler.window.start={start} sampler.window.size={size}",
            why=f"{ends}, so start + size must be at most {last}",
        )
    elif window.kind is WindowKind.random_window and not (high <= last and window.size <= high - window.low):
        low = min(window.low, last - 1)
        room = max(min(high, last), low + 1) - low
        yield mistake(
            f"a random window of sampler.window.size={window.size} does not fit between "
            f"sampler.window.low={window.low} and high={high}",
            f"sampler.window.low={low} sampler.window.high={low + room} "
            f"sampler.window.size={min(window.size, room)}",
            why=f"{ends}, so high must be at most {last} and high - low at least size",
        )
    elif window.kind is WindowKind.progressive:
        yield from _progressive(window, high, last, train_steps)


def _progressive(window: WindowConfig, high: int, last: int, train_steps: int) -> Iterator[Finding]:
    wrong = {"size": window.size, "high": high}
    wrong = {key: value for key, value in wrong.items() if value > last}
    if wrong:
        remedy = {"size": min(2, last), "high": "null"}
        yield mistake(
            f"a progressive window with {', '.join(f'{key}={value}' for key, value in wrong.items())}: size "
            f"and high are at most {last}, since the last transition is never trained",
            " ".join(f"sampler.window.{key}={remedy[key]}" for key in wrong),
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
