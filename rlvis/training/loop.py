"""The loop around `train_step`: run folder, resume, progress, trackers, sample sheets, checkpoints, export,
signals.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

from rlvis.checkpoints import state
from rlvis.checkpoints.open_run import open_run
from rlvis.checkpoints.state import Saver
from rlvis.checks import sequence as sequence_checks
from rlvis.observe import trackers
from rlvis.observe.trackers import Trackers
from rlvis.records import PriorState, RewardHistory
from rlvis.reward.canaries.watch import DriftWatch
from rlvis.runs import exit_state, manifest, step_files
from rlvis.runs.redact import public
from rlvis.runtime import dist, interrupt
from rlvis.runtime.progress import Progress
from rlvis.schema import Config, Stage, TrainConfig, plain
from rlvis.training import closing, escalation, evaluate, reference, single_stage
from rlvis.training.assemble import assemble
from rlvis.training.escalation import Escalation
from rlvis.training.guard import Guard, end_where_halted, memory_kinds
from rlvis.training.parts import MEMORY_KINDS, Gate, Memory, Parts
from rlvis.training.run_step import run_step
from rlvis.training.sampling import local_shards
from rlvis.training.sheet import SampleSheet
from rlvis.training.step_metrics import step_metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: exit code (0 done, 1 failed, 3 it trained nothing, 130 interrupted), its folder, and
    what it has to say last, if anything.
    """

    exit_code: int
    run_dir: Path
    remark: str = ""


def train(config: Config, argv: list[str], gate: Gate | None = None) -> Outcome:
    """Run what `config` says, in one run folder.

    Args:
        config: checked.
        argv: the command line, for the manifest.
        gate: what looks at a run before it trains (`rlvis.doctor.examine`); None looks at nothing.

    Raises:
        ValueError: a mistake of the user's that shows only now (files, checkpoints, folders in use).
    """
    world = dist.start(config.engine.device, sequence_checks.degree(config))
    try:
        with (
            open_run(config, world.is_main, dist.broadcast_object) as folder,
            exit_state.record_exit(folder.path, world) as exit_code,
        ):
            if world.is_main:
                manifest.write(folder.path, config, argv, world.size, str(world.device))
            if config.stage in sequence_checks.WITHOUT_POLICY:
                single_stage.without_policy(config, world, _records(config))
                return Outcome(0, folder.path)
            if gate is not None:
                gate.ahead(config, world)
            parts = assemble(config, world)
            try:
                exit_code.code = _run(parts, folder.path, folder.checkpoint, gate, exit_code)
                remark = ""
                if world.is_main and exit_code.code == 0 and config.stage is Stage.all:
                    remark = escalation.remark(folder.path)
                    exit_code.message = exit_code.message or remark
                dist.barrier()  # nobody leaves while another still talks
                return Outcome(exit_code.code, folder.path, remark)
            finally:
                parts.engine.close()
    finally:
        dist.stop()


def _run(
    parts: Parts, run_dir: Path, resumed: Path | None, gate: Gate | None, ended: exit_state.ExitCode
) -> int:
    config, world = parts.config, parts.world
    memory, first = Memory(PriorState(kind=config.prior.kind), RewardHistory()), 0
    if resumed is not None:
        loaded = state.load(resumed, parts.engine, parts.ema, memory_kinds(resumed), world)
        memory, first = Memory(**loaded.memory), loaded.step
        log.info("resumed after %d training steps", first)
    if config.stage is Stage.reference:
        return reference.table_only(parts)
    if config.stage is Stage.rollout:
        single_stage.rollout_only(parts, _records(config))
        return 0
    if config.stage is Stage.update:
        done = single_stage.update_only(parts, _records(config))
        with _saver(parts, run_dir) as saver:
            _save(saver, memory, done)
            return closing.finish(parts, saver, done, ended)
    if gate is not None:
        gate.admit(parts, memory, first, run_dir)
    tracker = trackers.build(config.tracker, name=config.name, main=world.is_main)
    tracker.start(public(plain(config)), run_dir, first + 1 if resumed is not None else None)
    code = 1
    try:
        with interrupt.listen() as stop_request, _saver(parts, run_dir) as saver:
            code = _loop(parts, saver, memory, first, tracker, stop_request, ended)
    finally:
        tracker.finish(code)
    return code


def _loop(
    parts: Parts,
    saver: Saver,
    memory: Memory,
    first: int,
    tracker: Trackers,
    stop_request: interrupt.Interrupt,
    ended: exit_state.ExitCode,
) -> int:
    """Steps until the end, an interruption, or an alarm that stops; the exit code. ended: gets a message."""
    config, world, run_dir = parts.config, parts.world, saver.run_dir
    ready = reference.prepare(parts, memory.prior, first, lambda: stop_request.requested)
    if ready is None:
        return interrupt.EXIT_CODE
    guard = Guard(ready, run_dir, tracker)
    parts = guard.apply(ready, memory)
    watch = DriftWatch(
        parts.config.reward.canary, parts.terms, parts.config.train.score_retries, world, run_dir
    )
    sheet = SampleSheet(parts, run_dir, tracker)
    lasting = Escalation(config, parts.terms, run_dir, world.is_main)
    if first == 0:
        memory = _before_first_step(parts, run_dir, sheet, memory, guard, tracker)
    else:
        if world.is_main:
            step_files.drop_from(run_dir, first + 1)
        watch.resumed(first)
    step, last, learned = first, config.train.steps, False
    with Progress(last, first=first, enabled=world.is_main) as progress:
        while step < last:
            start = time.perf_counter()
            with progress.sampling(_forwards(parts)):
                memory, records = run_step(parts, run_dir, memory, step, progress, (guard.look, watch.take))
            seconds = time.perf_counter() - start
            step += 1
            saver.require_folder()
            metrics = step_metrics(parts, records, seconds) | saver.news()
            learned = learned or closing.has_learned(metrics)
            if parts.held_out is not None and (step % config.eval.every == 0 or step == last):
                metrics |= evaluate.in_loop(parts, run_dir, step)
            memory, alarms = guard.judge(memory, records, metrics, step)
            tracker.log(step, metrics | alarms)
            rate = parts.policy.frame_rate if config.model.frames > 1 else None
            step_files.write(config, world, rate, run_dir, records, step)
            watch.after(step, records.prompts)
            reward, spread = metrics.get("reward/mean"), metrics.get("reward/std")
            deviation = metrics.get("ratio/max_deviation", math.nan)
            progress.step(step, reward, deviation, seconds, reward_std=spread)
            sheet.after(parts, step)
            acted = guard.act(parts, memory, saver, step)
            parts, memory = acted.parts, acted.memory
            stop, why = dist.any_true(stop_request.requested), lasting.look(metrics, step)
            if stop or why or acted.save or _due(config.train, step):
                _save(saver, memory, step)
            end_where_halted(acted, saver)
            if why:
                ended.message = lasting.told(step, why)
                saved = closing.finish(parts, saver, step, ended) == 0 if step == last else saver.settle()
                return exit_state.NOTHING_TRAINED if saved else 1
            if stop:
                saved = saver.settle()
                log.warning("stopped after step %d of %d; go on with resume=%s", step, last, run_dir)
                return interrupt.EXIT_CODE if saved else 1
    return closing.finish(parts, saver, step, ended, learned=learned)


def _before_first_step(
    parts: Parts, run_dir: Path, sheet: SampleSheet, memory: Memory, guard: Guard, tracker: Trackers
) -> Memory:
    """Draw and evaluate the policy as it is."""
    sheet.after(parts, 0)
    if parts.held_out is None:
        return memory
    scores = evaluate.in_loop(parts, run_dir, 0)
    tracker.log(0, scores)
    return guard.begin(memory, scores)


def _due(train: TrainConfig, step: int) -> bool:
    """Whether a checkpoint is written after training step `step`, from 1."""
    return step == train.steps or (train.save_every > 0 and step % train.save_every == 0)


def _forwards(parts: Parts) -> int:
    """Forwards of this rank's rollout."""
    return sum(shard.passes for shard in local_shards(parts)) * parts.config.sampler.steps


def _saver(parts: Parts, run_dir: Path) -> Saver:
    return Saver(run_dir, parts.engine, parts.ema, parts.world, keep=parts.config.train.keep)


def _save(saver: Saver, memory: Memory, step: int) -> None:
    saver.save(step, {name: getattr(memory, name) for name in MEMORY_KINDS})


def _records(config: Config) -> Path:
    assert config.records is not None, "checked: a single stage needs records=DIR"
    return Path(config.records).expanduser()
