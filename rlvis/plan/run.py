"""From a configuration to the words of its plan."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from rlvis.plan import memory, speed, text
from rlvis.plan.advice import Planner, Setup, advise, verdict
from rlvis.plan.judges import judges
from rlvis.plan.sharding import sharding
from rlvis.schema import Config


class Here(NamedTuple):
    """The GPU of this machine: its name and GiB; None for both where there is none."""

    name: str | None
    gib: float | None


def here() -> Here:
    """What torch sees."""
    if not torch.cuda.is_available():
        return Here(None, None)
    device = torch.cuda.get_device_properties(0)
    return Here(device.name, device.total_memory / memory.GIB)


def plan(config: Config, processes: int, machine: Here | None = None) -> str:
    """The plan of a run that was started as `processes` processes; plan_gpus goes before that.

    Only configuration files are read. Raises ValueError as loading the policy does.
    """
    machine = here() if machine is None else machine
    gpus = processes if config.plan_gpus is None else config.plan_gpus
    room = machine.gib if config.plan_gib is None else config.plan_gib
    planner = Planner(judges(config))
    setup = Setup(config, sharding(config, gpus))
    shapes, measured = planner.measured(config)
    _, other = planner.measured(_other_way(config))
    rate = speed.rate(config, machine.name)
    needed = memory.memory(shapes.policy, config, setup.cut, measured, planner.judges, other.train.peak)
    advice = None if room is None else advise(planner, setup, int(room * memory.GIB))
    return text.render(
        config,
        gpus,
        needed,
        verdict=verdict(needed, room, advice),
        speed=rate,
        seconds=None if rate is None else speed.times(config, measured, gpus, rate),
    )


def _other_way(config: Config) -> Config:
    """With gradient checkpointing where there was none, and without where there was."""
    model = replace(config.model, gradient_checkpointing=not config.model.gradient_checkpointing)
    return replace(config, model=model)
