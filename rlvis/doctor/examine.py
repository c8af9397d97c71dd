"""The order of the checks, and what their findings stop.

`ahead` asks what can be asked before anything heavy loads, `examine` looks at an assembled run, `admit` is
both sides of it for the loop: written, logged, and stopped where `doctor` says so. All ranks call them, and
all leave with the findings of rank 0.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from rlvis.doctor import canaries, geometry, gradient, hub, machine, maps, parameters, rewards, seams
from rlvis.doctor.diagnosis import Diagnosis, refusal, warning, write
from rlvis.doctor.probe import Probe, probe
from rlvis.doctor.ratio import ratio
from rlvis.findings import ConfigError, Finding, Severity, worst_first
from rlvis.reward.boundary import set_aside
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
    findings = look_once(world, "hub", lambda: hub.hub(config))
    if failures := worst_first(findings, Severity.failure):
        raise ConfigError(*refusal(failures, config.doctor))


def examine(parts: Parts, memory: Memory, step: int, run_dir: Path | None) -> Diagnosis:
    """Look at everything. run_dir: where the run writes; None asks the configuration.

    memory, step: as the next training step finds them; nothing of the run is changed.
    Raises ValueError for what would stop that step in the same way.
    """
    start = time.perf_counter()
    with _untouched(), set_aside([term.boundary for term in parts.terms]):
        findings = tuple(chain.from_iterable(_checks(parts, memory, step, run_dir)))
    agreed = dist.broadcast_object(findings)
    if parts.world.device.type == "cuda":
        torch.cuda.empty_cache()  # the probe's shapes are not all those of training
    return Diagnosis(parts.config.doctor, agreed, time.perf_counter() - start)


def admit(parts: Parts, memory: Memory, step: int, run_dir: Path) -> None:
    """Look before training: findings go to the log and RUN/doctor.json.

    Raises ConfigError, on every rank, for what `doctor` does not let pass.
    """
    if not wanted(parts.config) or step >= parts.config.train.steps:
        return
    diagnosis = examine(parts, memory, step, run_dir)
    if parts.world.is_main:
        write(diagnosis, run_dir)
    if diagnosis.stopping:
        raise ConfigError(*diagnosis.refusal())
    if parts.world.is_main:
        for finding in diagnosis.of(Severity.warning):
            log.warning("doctor: %s", finding)
    log.info("doctor: %s", diagnosis.headline)


def _checks(parts: Parts, memory: Memory, step: int, run_dir: Path | None) -> Iterator[list[Finding]]:
    """Every check in its order: what needs no forward first, then one probe and what it shows."""
    config, world, policy = parts.config, parts.world, parts.policy
    yield look_once(world, "versions", machine.versions)
    yield look_once(world, "gpu", lambda: machine.gpus(config, world))
    yield look_once(world, "disk", lambda: machine.disk(parts, run_dir))
    yield look_once(world, "memory", lambda: machine.memory(parts))
    yield look_once(world, "hub", lambda: hub.hub(config))
    yield look_once(world, "files", lambda: geometry.files(config))
    yield geometry.geometry(config, world, policy.latent_shape)
    yield geometry.groups(config)
    yield look_once(world, "prompts", lambda: geometry.prompts(config, parts.prompts, policy))
    yield parameters.parameters(parts)
    step_in_small = probe(parts, memory, step)
    if not isinstance(step_in_small, Probe):
        yield [step_in_small]
        return
    for look in (ratio, gradient.gradient, rewards.rewards, canaries.canaries, seams.seams, maps.maps):
        yield look(step_in_small)


def look_once(world: World, check: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """A check that looks at one machine: rank 0 looks and tells the others.

    A check that fails itself is a finding, not the end of a run that it knows nothing about.
    """
    findings: list[Finding] = []
    if world.is_main:
        try:
            findings = look()
        except Exception as error:
            log.debug("the check %s failed", check, exc_info=True)
            why = "this was not looked at; the training may still be in order"
            what = f"the check itself failed: {type(error).__name__}: {error}"
            findings = [warning(check, what, why=why, type="doctor=off to leave the checks out")]
    agreed: list[Finding] = dist.broadcast_object(findings)
    return agreed


@contextmanager
def _untouched() -> Iterator[None]:
    """The global random generators afterwards are as they were before."""
    python, tensors = random.getstate(), torch.get_rng_state()
    arrays = np.random.get_state()  # noqa: NPY002 - the global one, which scorers may draw from
    initialized = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = torch.cuda.get_rng_state_all() if initialized else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002
        torch.set_rng_state(tensors)
        for i, state in enumerate(devices):
            torch.cuda.set_rng_state(state, i)
