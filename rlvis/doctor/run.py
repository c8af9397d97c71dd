"""The doctor without a run: the same configuration assembled, looked at, and put away again."""

from __future__ import annotations

import time
from pathlib import Path

from rlvis.checkpoints import files, state
from rlvis.doctor import hub
from rlvis.doctor.diagnosis import Diagnosis, write
from rlvis.doctor.examine import examine, look_once
from rlvis.findings import Severity
from rlvis.records import PriorState, RewardHistory
from rlvis.runtime import dist
from rlvis.runtime.dist import World
from rlvis.schema import Config
from rlvis.training.assemble import assemble
from rlvis.training.parts import Memory, Parts


def diagnose(config: Config) -> Diagnosis:
    """Assemble what `config` says (with the newest whole checkpoint of the run that `resume` names) and look
    at it, also with doctor=off; every process calls it.

    Nothing is written but run_dir/doctor.json where a run_dir is named. Where the hub cannot give what is
    asked for, that is the only finding: there is nothing to assemble.
    Raises ValueError for whatever a prompt file, a scorer or a checkpoint has to complain about.
    """
    world = dist.start(config.engine.device, config.engine.sequence_parallel)
    try:
        start = time.perf_counter()
        findings = look_once(world, "hub", lambda: hub.hub(config))
        if any(finding.severity is Severity.failure for finding in findings):
            return Diagnosis(config.doctor, tuple(findings), time.perf_counter() - start)
        parts = assemble(config, world)
        try:
            memory, step = _resumed(parts, world)
            diagnosis = examine(parts, memory, step, None)
            if world.is_main and config.run_dir is not None:
                write(diagnosis, Path(config.run_dir).expanduser())
            dist.barrier()  # nobody leaves while another still talks
            return diagnosis
        finally:
            parts.engine.close()
    finally:
        dist.stop()


def _resumed(parts: Parts, world: World) -> tuple[Memory, int]:
    """Memory and step as the run would go on with them."""
    config = parts.config
    if config.resume is None:
        return Memory(PriorState(kind=config.prior.kind), RewardHistory()), 0
    kinds = {"prior": PriorState, "history": RewardHistory}
    loaded = state.load(files.choose(Path(config.resume)), parts.engine, parts.ema, kinds, world)
    return Memory(**loaded.memory), loaded.step
