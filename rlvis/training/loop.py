"""The loop around `train_step`: run folder, resume, progress, trackers, sample sheets, checkpoints, export,
signals.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlvis.observe import gallery, overlay, trackers, trust_table
from rlvis.observe.metrics import advantage_metrics, map_metrics, reward_metrics, trust_metrics
from rlvis.observe.trackers import Trackers
from rlvis.records import PriorState, PromptBatch, RewardHistory
from rlvis.rollout.generate import generate
from rlvis.runtime import dist
from rlvis.runtime.dist import World
from rlvis.runtime.progress import Progress
from rlvis.schema import Config, CrtForm, Stage, TrustKind, plain
from rlvis.training import (
    alone,
    archive,
    checkpoint,
    eval_run,
    evaluate,
    interrupt,
    manifest,
    reference,
    runfolder,
)
from rlvis.training.assemble import assemble, averaged, sheet_prompts
from rlvis.training.pipeline import BrokenStepError, Memory, Parts, StepRecords, shards, train_step
from rlvis.training.private import public

log = logging.getLogger(__name__)

KINDS = {"prior": PriorState, "history": RewardHistory}


@dataclass(frozen=True)
class Outcome:
    """How a run ended: exit code (0 done, 1 failed, 130 interrupted) and its folder."""

    exit_code: int
    run_dir: Path


def train(config: Config, argv: list[str]) -> Outcome:
    """Run what `config` says, in one run folder.

    Args:
        config: checked.
        argv: the command line, for the manifest.

    Raises:
        ValueError: a mistake of the user's that shows only now (files, checkpoints, folders in use).
    """
    world = dist.start(config.engine.device)
    try:
        with runfolder.opened(config, world.leads, dist.broadcast_object) as folder:
            if world.leads:
                manifest.write(folder.path, config, argv, world.size, str(world.device))
            if config.stage in (Stage.score, Stage.weigh, Stage.build):
                alone.without_policy(config, world, _records(config))
                return Outcome(0, folder.path)
            parts = assemble(config, world)
            try:
                code = _run(parts, folder.path, folder.resumes)
                dist.barrier()  # nobody leaves while another still talks
                return Outcome(code, folder.path)
            finally:
                parts.engine.close()
    finally:
        dist.stop()


def _run(parts: Parts, run_dir: Path, resumes: bool) -> int:
    config, world = parts.config, parts.world
    memory, first = Memory(PriorState(kind=config.prior.kind.value), RewardHistory()), 0
    if resumes:
        first, saved = checkpoint.load(checkpoint.latest(run_dir), parts.engine, parts.ema, KINDS, world)
        memory = Memory(saved["prior"], saved["history"])
        log.info("resumed after %d training steps", first)
    if config.stage is Stage.reference:
        return reference.table_only(parts)
    if config.stage is Stage.rollout:
        alone.rollout_only(parts, _records(config))
        return 0
    if config.stage is Stage.update:
        done = alone.update_only(parts, _records(config))
        _finish(parts, run_dir, memory, done)
        return 0
    tracker = trackers.build(config.tracker, name=config.name, main=world.leads)
    tracker.start(public(plain(config)), run_dir, first + 1 if resumes else None)
    code = 1
    try:
        with interrupt.listen() as asked:
            code = _loop(parts, run_dir, memory, first, tracker, asked)
    finally:
        tracker.finish(code)
    return code


def _loop(
    parts: Parts, run_dir: Path, memory: Memory, first: int, tracker: Trackers, asked: interrupt.Interrupt
) -> int:
    config, world = parts.config, parts.world
    train = config.train
    ready = reference.prepared(parts, memory.prior, first, lambda: asked.asked)
    if ready is None:
        return interrupt.EXIT_CODE
    parts = ready
    if first and world.leads:
        trust_table.resume(run_dir, first + 1)
    sheet = sheet_prompts(parts) if config.tracker.samples_every else None
    if sheet is not None and first == 0:
        _sheet(parts, run_dir, sheet, 0, tracker)
    if parts.held_out is not None and first == 0:
        tracker.log(0, evaluate.in_loop(parts, run_dir, 0))
    step = first
    with Progress(train.steps, first=first, enabled=world.leads) as progress:
        while step < train.steps:
            start = time.perf_counter()
            with progress.sampling(_forwards(parts)):
                memory, records = _one(parts, run_dir, memory, step, progress)
            seconds = time.perf_counter() - start
            step += 1
            metrics = step_metrics(parts, records, seconds)
            if parts.held_out is not None and (step % config.eval.every == 0 or step == train.steps):
                metrics |= evaluate.in_loop(parts, run_dir, step)
            tracker.log(step, metrics)
            _trust_table(parts, run_dir, records, step)
            progress.step(
                step,
                metrics.get("reward/mean"),
                _deviation(metrics),
                seconds,
                reward_std=metrics.get("reward/std"),
            )
            if sheet is not None and (step % config.tracker.samples_every == 0 or step == train.steps):
                _sheet(parts, run_dir, sheet, step, tracker)
            stop = dist.any_true(asked.asked)
            if stop or step == train.steps or (train.save_every and step % train.save_every == 0):
                _save(parts, run_dir, memory, step)
            if stop:
                log.warning("stopped after step %d of %d; go on with resume=%s", step, train.steps, run_dir)
                return interrupt.EXIT_CODE
    _export(parts, run_dir, step)
    return 0


def _one(
    parts: Parts, run_dir: Path, memory: Memory, step: int, progress: Progress
) -> tuple[Memory, StepRecords]:
    try:
        memory, records = train_step(parts, memory, step, progress.advance)
    except BrokenStepError as broken:
        folder = archive.step_folder(run_dir / "dump", step)
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
    memory = torch.cuda.max_memory_allocated() / 2**30 if parts.world.device.type == "cuda" else 0.0
    return {
        **reward_metrics(records.rewards),
        **advantage_metrics(records.advantages, records.rewards, adv_clip=parts.config.advantage.adv_clip),
        **(
            trust_metrics(records.trust, records.rewards, parts.config.advantage.combine)
            if _trusts(parts)
            else {}
        ),
        **_map_metrics(records),
        **records.update.metrics,
        **{f"time/{name}": value for name, value in records.seconds.items()},
        "update/learning_rate": parts.config.optim.lr,
        "data/truncated_prompts": float(records.truncated),
        "time/step": seconds,
        "throughput/samples_per_second": samples / seconds,
        "memory/max_gib": float(dist.all_reduce(torch.tensor([memory]), "max")[0]),
    }


def _trusts(parts: Parts) -> bool:
    """Whether groups are weighed or contrasted at all."""
    trust = parts.config.trust
    return trust.kind is not TrustKind.none or trust.crt.form is not CrtForm.none


def _map_metrics(records: StepRecords) -> dict[str, float]:
    if records.map is None:
        return {}
    return map_metrics(records.map, records.trajectories.free, records.failed_maps, dist.all_reduce)


def _trust_table(parts: Parts, run_dir: Path, records: StepRecords, step: int) -> None:
    """Whose weights they are, on rank 0; every rank has the same."""
    kind, combine = parts.config.trust.kind, parts.config.advantage.combine
    if parts.world.leads and _trusts(parts):
        found = trust_table.rows(
            records.trust,
            records.rewards,
            records.prompts,
            step,
            combine,
            posterior=kind is TrustKind.posterior,
        )
        trust_table.append(run_dir, found)


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
            tracker.image(step, "maps", overlay.write_maps(run_dir, step, images, area, prompts.texts))


def _save(parts: Parts, run_dir: Path, memory: Memory, step: int) -> None:
    kept = {"prior": memory.prior, "history": memory.history}
    checkpoint.save(run_dir, step, parts.engine, parts.ema, kept, parts.world, keep=parts.config.train.keep)


def _export(parts: Parts, run_dir: Path, step: int) -> None:
    """Write what stock diffusers opens, from averaged weights if there are some, else from the masters, after
    `step` training steps.
    """
    weights = dict(parts.engine.masters()) if parts.ema is None else parts.ema.weights
    if parts.world.leads:
        folder = run_dir / ("model" if parts.config.model.lora is None else "lora")
        parts.policy.export(folder, weights)
        eval_run.note_step(folder, step)
    dist.barrier()


def _finish(parts: Parts, run_dir: Path, memory: Memory, step: int) -> None:
    _save(parts, run_dir, memory, step)
    _export(parts, run_dir, step)


def _records(config: Config) -> Path:
    assert config.records is not None, "checked: a single stage needs records=DIR"
    return Path(config.records).expanduser()
