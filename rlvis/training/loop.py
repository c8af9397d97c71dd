"""The loop around `train_step`: run folder, resume, progress, trackers, sample sheets, checkpoints, export,
signals.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlvis.checkpoints import eval_weights, state
from rlvis.checkpoints.open_run import open_run
from rlvis.checkpoints.state import Saver
from rlvis.checks import sequence as sequence_checks
from rlvis.observe import gallery, overlay, trackers
from rlvis.observe.metrics import advantage_metrics, map_metrics, reward_metrics, trust_metrics
from rlvis.observe.trackers import Trackers
from rlvis.records import PriorState, PromptBatch, RewardHistory, StepRecords, Trajectories
from rlvis.reward import cache
from rlvis.rollout.generate import generate
from rlvis.runs import archive, exit_state, manifest, step_files
from rlvis.runs.redact import public
from rlvis.runtime import dist, interrupt
from rlvis.runtime.dist import World
from rlvis.runtime.progress import Progress
from rlvis.schema import Config, Stage, plain
from rlvis.training import broken as broken_file
from rlvis.training import drift, evaluate, reference, single_stage
from rlvis.training import guard as guarding
from rlvis.training.assemble import assemble, averaged, sheet_prompts
from rlvis.training.parts import MEMORY_KINDS, BrokenStepError, Gate, Memory, Parts
from rlvis.training.pipeline import shards, train_step

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: exit code (0 done, 1 failed, 130 interrupted) and its folder."""

    exit_code: int
    run_dir: Path


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
            open_run(config, world.leads, dist.broadcast_object) as folder,
            exit_state.recorded(folder.path, world) as ended,
        ):
            if world.leads:
                manifest.write(folder.path, config, argv, world.size, str(world.device))
            if config.stage in sequence_checks.WITHOUT_POLICY:
                single_stage.without_policy(config, world, _records(config))
                return Outcome(0, folder.path)
            if gate is not None:
                gate.ahead(config, world)
            parts = assemble(config, world)
            try:
                ended.code = _run(parts, folder.path, folder.checkpoint, gate)
                dist.barrier()  # nobody leaves while another still talks
                return Outcome(ended.code, folder.path)
            finally:
                parts.engine.close()
    finally:
        dist.stop()


def _run(parts: Parts, run_dir: Path, resumed: Path | None, gate: Gate | None) -> int:
    config, world = parts.config, parts.world
    memory, first = Memory(PriorState(kind=config.prior.kind.value), RewardHistory()), 0
    if resumed is not None:
        loaded = state.load(resumed, parts.engine, parts.ema, guarding.kinds(resumed), world)
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
            return _finish(parts, saver, done)
    if gate is not None:
        gate.admit(parts, memory, first, run_dir)
    tracker = trackers.build(config.tracker, name=config.name, main=world.leads)
    tracker.start(public(plain(config)), run_dir, first + 1 if resumed is not None else None)
    code = 1
    try:
        with interrupt.listen() as asked, _saver(parts, run_dir) as saver:
            code = _loop(parts, saver, memory, first, tracker, asked)
    finally:
        tracker.finish(code)
    return code


def _loop(
    parts: Parts, saver: Saver, memory: Memory, first: int, tracker: Trackers, asked: interrupt.Interrupt
) -> int:
    config, world = parts.config, parts.world
    train, run_dir = config.train, saver.run_dir
    ready = reference.prepared(parts, memory.prior, first, lambda: asked.asked)
    if ready is None:
        return interrupt.EXIT_CODE
    guard = guarding.Guard(ready, run_dir, tracker)
    parts = guard.applied(ready, memory)
    watch = drift.DriftWatch(parts, run_dir)
    if first and world.leads:
        step_files.drop_from(run_dir, first + 1)
    if first:
        watch.resumed(first)
    sheet = sheet_prompts(parts) if config.tracker.samples_every else None
    if first == 0:
        memory = _opened(parts, run_dir, sheet, memory, guard, tracker)
    step = first
    with Progress(train.steps, first=first, enabled=world.leads) as progress:
        while step < train.steps:
            start = time.perf_counter()
            with progress.sampling(_forwards(parts)):
                memory, records = _one(parts, run_dir, memory, step, progress, (guard.look, watch.take))
            seconds = time.perf_counter() - start
            step += 1
            saver.require_folder()
            metrics = step_metrics(parts, records, seconds) | saver.news()
            if parts.held_out is not None and (step % config.eval.every == 0 or step == train.steps):
                metrics |= evaluate.in_loop(parts, run_dir, step)
            memory, told = guard.judge(memory, records, metrics, step)
            tracker.log(step, metrics | told)
            rate = parts.policy.frame_rate if config.model.frames > 1 else None
            step_files.write(config, world, rate, run_dir, records, step)
            watch.after(step, records.prompts)
            progress.step(
                step,
                metrics.get("reward/mean"),
                _deviation(metrics),
                seconds,
                reward_std=metrics.get("reward/std"),
            )
            if sheet is not None and (step % config.tracker.samples_every == 0 or step == train.steps):
                _sheet(parts, run_dir, sheet, step, tracker)
            acted = guard.act(parts, memory, saver, step)
            parts, memory = acted.parts, acted.memory
            stop = dist.any_true(asked.asked)
            due = step == train.steps or (train.save_every > 0 and step % train.save_every == 0)
            if stop or acted.save or due:
                _save(saver, memory, step)
            guarding.end(acted, saver)
            if stop:
                saved = saver.settle()
                log.warning("stopped after step %d of %d; go on with resume=%s", step, train.steps, run_dir)
                return interrupt.EXIT_CODE if saved else 1
    return _finish(parts, saver, step)


def _opened(
    parts: Parts,
    run_dir: Path,
    sheet: PromptBatch | None,
    memory: Memory,
    guard: guarding.Guard,
    tracker: Trackers,
) -> Memory:
    """Draw and evaluate before the first step."""
    if sheet is not None:
        _sheet(parts, run_dir, sheet, 0, tracker)
    if parts.held_out is None:
        return memory
    scores = evaluate.in_loop(parts, run_dir, 0)
    tracker.log(0, scores)
    return guard.began(memory, scores)


def _one(
    parts: Parts,
    run_dir: Path,
    memory: Memory,
    step: int,
    progress: Progress,
    watchers: Sequence[Callable[[Trajectories], None]],
) -> tuple[Memory]:
    def look(piece: Trajectories) -> None:
        for take in watchers:
            take(piece)

    try:
        pictures = step_files.keeps_pictures(parts.config, step + 1)
        memory, records = train_step(parts, memory, step, progress.advance, pictures, look)
    except BrokenStepError as broken:
        folder = archive.step_folder(run_dir / "dump", step)
        stage = "rollout" if broken.trajectories is None else "update"
        if parts.world.leads:
            broken_file.write(folder, step + 1, stage, str(broken), broken.broken)
        if broken.trajectories is None:
            raise RuntimeError(f"{broken}; rlvis autopsy {run_dir} says more") from broken
        _write(
            folder,
            parts.world,
            trajectories=broken.trajectories,
            prompts=broken.prompts,
            advantages=broken.advantages,
        )
        raise RuntimeError(
            f"{broken}; its records are in {folder.parent}: "
            f"replay them with stage=update records={folder.parent}"
        ) from broken
    if parts.config.train.save_records:
        folder = archive.step_folder(run_dir / "records", step)
        _write(
            folder,
            parts.world,
            trajectories=records.trajectories,
            prompts=records.prompts,
            rewards=records.rewards,
            trust=records.trust,
            advantages=records.advantages,
            prior=memory.prior,
            history=memory.history,
            update=records.update,
        )
    return memory, records


def _write(folder: Path, world: World, *, trajectories: Any, **light: Any) -> None:
    """Save one step's records: local ones per rank, global ones once."""
    archive.save_local(trajectories, folder, "trajectories", world)
    archive.save_advantages(light.pop("advantages"), folder, world)
    if world.leads:
        for name, record in light.items():
            record.save(folder / name)
    dist.barrier()


def step_metrics(parts: Parts, records: StepRecords, seconds: float) -> dict[str, float]:
    """Everything a step reports, metric name -> value, as in the table of `rlvis.observe.metrics`."""
    samples = records.advantages.keep.numel()
    memory = max(records.peak.values(), default=0) / 2**30
    return {
        **reward_metrics(records.rewards),
        **advantage_metrics(records.advantages, records.rewards, adv_clip=parts.config.advantage.adv_clip),
        **(
            trust_metrics(records.trust, records.rewards, parts.config.advantage.combine)
            if step_files.weighs_groups(parts.config)
            else {}
        ),
        **_map_metrics(records),
        **cache.metrics(parts.terms),
        **({"reward/refilled": float(records.refilled)} if parts.config.reward.refill else {}),
        **records.update.metrics,
        **{f"time/{name}": value for name, value in records.seconds.items()},
        **{f"memory/{name}": value / 2**30 for name, value in records.peak.items()},
        "update/learning_rate": parts.config.optim.lr,
        "data/truncated_prompts": float(records.truncated),
        "time/step": seconds,
        "throughput/samples_per_second": samples / seconds,
        "memory/max_gib": float(dist.all_reduce(torch.tensor([memory]), "max")[0]),
    }


def _map_metrics(records: StepRecords) -> dict[str, float]:
    if records.map is None:
        return {}
    return map_metrics(records.map, records.trajectories.free, records.failed_maps, dist.all_reduce)


def _deviation(metrics: dict[str, float]) -> float:
    return metrics.get("ratio/max_deviation", float("nan"))


def _forwards(parts: Parts) -> int:
    """Forwards of this rank's rollout."""
    return sum(shard.passes for shard in shards(parts)) * parts.config.sampler.steps


def _sheet(parts: Parts, run_dir: Path, prompts: PromptBatch, step: int, tracker: Trackers) -> None:
    """Draw the fixed prompts by the deterministic sampler, with averaged weights if there are some."""
    sampler = parts.config.sampler
    schedule = parts.policy.schedule(sampler.steps, sampler.shift, sampler.grid)
    with averaged(parts.policy, parts.engine, parts.ema):
        images = generate(
            parts.policy,
            parts.engine,
            prompts,
            schedule,
            seed=parts.config.seed,
            micro_batch=parts.config.train.micro_batch,
        )
    if parts.world.leads:
        tracker.image(step, "samples", gallery.write_samples(run_dir, step, images, prompts.texts))
        if parts.psm is not None:
            free = parts.policy.free.cpu()
            area = parts.psm(images, free, tuple(parts.policy.latent_shape)).cpu()
            rate = parts.policy.frame_rate if images.shape[1] > 1 else None
            path = overlay.write_maps(run_dir, step, images, area, prompts.texts, rate)
            tracker.image(step, "maps", path)


def _saver(parts: Parts, run_dir: Path) -> Saver:
    return Saver(run_dir, parts.engine, parts.ema, parts.world, keep=parts.config.train.keep)


def _save(saver: Saver, memory: Memory, step: int) -> None:
    saver.save(step, {name: getattr(memory, name) for name in MEMORY_KINDS})


def _export(parts: Parts, run_dir: Path, step: int) -> None:
    """Write what stock diffusers opens, from averaged weights if there are some, else from the masters, after
    `step` training steps.
    """
    weights = dict(parts.engine.masters()) if parts.ema is None else parts.ema.weights
    if parts.world.leads:
        folder = run_dir / ("model" if parts.config.model.lora is None else "lora")
        parts.policy.export(folder, weights)
        eval_weights.note_step(folder, step)
    dist.barrier()


def _finish(parts: Parts, saver: Saver, step: int) -> int:
    """Export while the last checkpoint is written; exit code 1 where that fails."""
    _export(parts, saver.run_dir, step)
    return 0 if saver.settle() else 1


def _records(config: Config) -> Path:
    assert config.records is not None, "checked: a single stage needs records=DIR"
    return Path(config.records).expanduser()
