"""The noise levels of pipelines that hand a grid to the stock Euler scheduler: FLUX and its kin.

These pipelines lay a line from 1 to 1/steps and let the scheduler shift it, by a shift that depends on the
resolution or by a fixed one, and perhaps stretch its end. What the checkpoint's scheduler says decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rlvis.flow import schedules
from rlvis.records import Schedule

# Options of the stock scheduler that change the grid or the step, with the values under which it is ours.
PLAIN: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "invert_sigmas": False,
    "stochastic_sampling": False,
}


# Of pipelines that leave the grid to the scheduler, besides: what would bend it.
PLAIN_EULER: dict[str, Any] = PLAIN | {"use_dynamic_shifting": False, "shift_terminal": None}


def check_plain(config: Mapping[str, Any], plain: Mapping[str, Any], path: str) -> None:
    """Raise ValueError where a scheduler's configuration sets options of `plain` otherwise.

    path: model.path, for the message. Null, false and 0 say the same.
    """
    odd = [key for key, usual in plain.items() if (config.get(key, usual) or None) != (usual or None)]
    if odd:
        raise ValueError(
            f"the scheduler of model.path={path} sets {', '.join(f'{key}={config[key]}' for key in odd)}, "
            "which sampler.grid=model does not follow; type sampler.grid=linear, with a sampler.shift of "
            "your choice"
        )


def check_ddim(grid: str, shift: float | None, title: str) -> None:
    """Raise ValueError for an option of sampler that models on DDIM's grid do not have; title: "X are"."""
    if grid != "model" or shift is not None:
        wrong = f"sampler.grid={grid}" if grid != "model" else f"sampler.shift={shift}"
        raise ValueError(
            f"{wrong}: {title} sampled on DDIM's own grid, which has no shift; type sampler.grid=model "
            "sampler.shift=null"
        )


def line_schedule(
    pipe: Any, path: str, tokens: int, steps: int, shift: float | None, grid: str, mu: float | None = None
) -> Schedule:
    """The stock grid of `steps` steps for a latent of `tokens` image tokens; time is 1000 sigma.

    Args:
        path: model.path, for messages.
        shift: s of sigma' = s sigma / (1 + (s - 1) sigma); None takes the checkpoint's, by the resolution
            where its scheduler says so.
        grid: "model", or "linear" for DanceGRPO's.
        mu: log of the shift where the scheduler shifts by the resolution; None: FLUX's line through it.

    Raises:
        ValueError: another grid name, or a scheduler that does what ours does not.
    """
    if grid not in ("model", "linear"):
        raise ValueError(f"sampler.grid={grid}: choose model or linear")
    config = pipe.scheduler.config
    dynamic = shift is None and config.get("use_dynamic_shifting")
    if dynamic and mu is None:
        mu = _line_through_resolutions(config, tokens)
    if dynamic and config.get("time_shift_type") == "linear":
        dynamic, shift = False, mu
    if shift is None:
        shift = math.exp(mu) if dynamic and mu is not None else float(config.get("shift", 1.0))
    if grid == "linear":
        return schedules.shifted_linear(steps, shift)
    if type(pipe.scheduler).__name__ != "FlowMatchEulerDiscreteScheduler":
        raise ValueError(
            f"the scheduler of model.path={path}, a {type(pipe.scheduler).__name__}, has its own steps, "
            "which sampler.grid=model does not follow; type sampler.grid=linear, with a sampler.shift of "
            "your choice"
        )
    check_plain(config, PLAIN, path)
    terminal = config.get("shift_terminal") or None
    if dynamic and mu is not None:
        return schedules.flow_match_dynamic(steps, mu, terminal=terminal)
    return schedules.flow_match_line(steps, shift, terminal=terminal)


def _line_through_resolutions(config: Any, tokens: int) -> float:
    return schedules.flux_mu(
        tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", 1.15),
    )
