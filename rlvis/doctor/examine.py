"""The order of the checks, and what their findings stop.

`ahead` asks what can be asked before anything heavy loads, `examine` looks at an assembled run, `admit` is
both sides of it for the loop: written, told, and stopped where `doctor` says so. All ranks call them, and
all leave with the findings of rank 0.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from rlvis.doctor import canaries, geometry, gradient, hub, machine, parameters, rewards, seams
from rlvis.doctor.diagnosis import FAILURE, WARNING, Diagnosis, Finding, combined, refusal, write
from rlvis.doctor.probe import Probe, probe
from rlvis.doctor.ratio import ratio
from rlvis.findings import ConfigError
from rlvis.runtime import dist
from rlvis.runtime.dist import World
from rlvis.schema import Config, Doctor, Stage
from rlvis.training.parts import Memory, Parts

log = logging.getLogger(__name__)


def wanted(config: Config) -> bool:
    """Whether a run is looked at: whole ones, unless the doctor is off."""
    return config.doctor is not Doctor.off and config.stage is Stage.all


def ahead(config: Config, world: World) -> None:
    """Before weights are read: whether what comes from the hub can be had.

    Raises ConfigError, on every rank, where it cannot.
    """
    if not wanted(config):
        return
    found = led(world, "hub", lambda: hub.hub(config))
    if failures := [f for f in found if f.level == FAILURE]:
        raise ConfigError(refusal(failures, config.doctor))


def examine(parts: Parts, memory: Memory, step: int, run_dir: Path | None) -> Diagnosis:
    """Look at everything. run_dir: where the run writes; None asks the configuration.

    memory, step: as the next training step finds them; nothing of the run is changed.
    Raises ValueError for what would stop that step in the same way.
    """
    start = time.perf_counter()
    with _untouched():
        found = combined(_checks(parts, memory, step, run_dir))
    told = dist.broadcast_object(found)
    if parts.world.device.type == "cuda":
        torch.cuda.empty_cache()  # the probe's shapes are not all those of training
    return Diagnosis(parts.config.doctor, told, time.perf_counter() - start)


def admit(parts: Parts, memory: Memory, step: int, run_dir: Path) -> None:
    """Look before training: findings go to the log and RUN/doctor.json.

    Raises ConfigError, on every rank, for what `doctor` does not let pass.
    """
    if not wanted(parts.config) or step >= parts.config.train.steps:
        return
    diagnosis = examine(parts, memory, step, run_dir)
    if parts.world.leads:
        write(diagnosis, run_dir)
    if diagnosis.stopping:
        raise ConfigError(diagnosis.refusal())
    if parts.world.leads:
        for finding in diagnosis.of(WARNING):
            log.warning("doctor: %s", finding.told)
    log.info("doctor: %s", diagnosis.headline)


def _checks(parts: Parts, memory: Memory, step: int, run_dir: Path | None) -> Iterator[list[Finding]]:
    """Every check in its order: what needs no forward first, then one probe and what it shows."""
    config, world, policy = parts.config, parts.world, parts.policy
    yield led(world, "versions", machine.versions)
    yield led(world, "gpu", lambda: machine.gpus(config, world))
    yield led(world, "disk", lambda: machine.disk(parts, run_dir))
    yield led(world, "memory", lambda: machine.memory(parts))
    yield led(world, "hub", lambda: hub.hub(config))
    yield led(world, "files", lambda: geometry.files(config))
    yield geometry.geometry(config, world, policy.latent_shape)
    yield geometry.groups(config)
    yield led(world, "prompts", lambda: geometry.prompts(config, parts.prompts, policy))
    yield parameters.parameters(parts)
    made = probe(parts, memory, step)
    if not isinstance(made, Probe):
        yield [made]
        return
    yield ratio(made)
    yield gradient.gradient(made)
    yield rewards.rewards(made)
    yield canaries.canaries(made)
    yield seams.seams(made)


def led(world: World, check: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """A check that looks at one machine: rank 0 looks and tells the others.

    A check that fails itself is a finding, not the end of a run that it knows nothing about.
    """
    found: list[Finding] = []
    if world.leads:
        try:
            found = look()
        except Exception as error:
            log.debug("the check %s failed", check, exc_info=True)
            why = "this was not looked at; the training may still be in order"
            told = f"the check itself failed: {type(error).__name__}: {error}"
            found = [Finding(check, WARNING, told, {}, why, "doctor=off to leave the checks out")]
    told_all: list[Finding] = dist.broadcast_object(found)
    return told_all


@contextmanager
def _untouched() -> Iterator[None]:
    """The global random generators afterwards are as they were before."""
    python, tensors = random.getstate(), torch.get_rng_state()
    arrays = np.random.get_state()  # noqa: NPY002 - the global one, which scorers may draw from
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002
        torch.set_rng_state(tensors)
        for i, state in enumerate(devices):
            torch.cuda.set_rng_state(state, i)
