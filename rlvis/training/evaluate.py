"""Held-out evaluation inside a run and alone (`rlvis eval`): who draws, where the numbers go.

Both ways draw the same samples from the same weights: those of the average where a run has one, in the
precision in which the engine runs them.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvis.checkpoints import eval_weights, state
from rlvis.checkpoints.eval_weights import Weights
from rlvis.evaluation import pictures, results
from rlvis.evaluation.drawn import Drawn
from rlvis.evaluation.prompts import HeldOut, encode, prepare
from rlvis.evaluation.run import evaluate, ode_steps
from rlvis.models import sequence
from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.records import PriorState, RewardHistory
from rlvis.rollout import plan as sampling
from rlvis.rollout.generate import FIXED
from rlvis.runs import manifest
from rlvis.runs.redact import public
from rlvis.runtime import dist
from rlvis.runtime.deepspeed_setup import quiet_deepspeed
from rlvis.runtime.dist import World
from rlvis.schema import Config, plain, sample_values
from rlvis.training import assemble
from rlvis.training.parts import Parts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """Where one evaluation was written, and its table as text."""

    folder: Path
    path: Path
    listing: str


def in_loop(parts: Parts, run_dir: Path, step: int) -> dict[str, float]:
    """Evaluate the run's weights after `step` training steps into RUN/eval; metrics, on every rank. A
    collective.
    """
    assert parts.held_out is not None, "a run without evaluation asks for none"
    start = time.perf_counter()
    with assemble.averaged_weights(parts.policy, parts.engine, parts.ema):
        columns, summary = _draw(
            parts.config, parts.policy, parts.engine, parts.held_out, parts.world, run_dir / "eval", step
        )
        summary["weights"] = fingerprint(parts.policy, parts.engine.masters())
    table = results.frame(parts.held_out, columns, step)
    estimates = results.estimates(table)
    if parts.world.is_main:
        results.write(run_dir / "eval", table, step, summary)
    seconds = time.perf_counter() - start
    log.info("eval   step %d: %s", step, results.line(estimates, seconds))
    dist.barrier()
    return {**results.metrics(estimates), "time/eval": seconds}


def evaluate_policy(config: Config) -> Evaluated:
    """Evaluate the configured policy, or what a run left behind (eval.run), and write its numbers.

    config: settled and checked (see `eval_run`).

    Raises:
        ValueError: prompts, scorers or weights cannot be had, or another evaluation of that step would be
            lost.
    """
    world = dist.start(config.engine.device)
    try:
        source, folder = eval_weights.find_weights(config), eval_weights.output_folder(config)
        assemble.set_threads(config, world)
        if source.kind == "checkpoint":
            return _of_checkpoint(config, source, folder, world)
        held = prepare(config)
        quiet_deepspeed(world.device.type)
        policy = _load_exported(config, source, world)
        return _evaluate(config, policy, policy.module, encode(held, policy), folder, source, world)
    finally:
        dist.stop()


def fingerprint(policy: Policy, masters: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of the trained weights by name, in the dtype that runs; equal weights have equal ones, wherever
    they were loaded from. masters may be a collective, so every rank goes through all of them.
    """
    dtypes = {name: parameter.dtype for name, parameter in policy.trainable()}
    digest = hashlib.sha256()
    for name, value in masters:
        data = value.detach().to("cpu", dtypes[name]).contiguous()
        digest.update(f"{name} {data.dtype} {list(data.shape)}\n".encode())
        digest.update(data.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def settings(config: Config, held: HeldOut, steps: int) -> dict[str, Any]:
    """Everything but weights, hardware and batch shape that the numbers depend on, as JSON values."""
    values: dict[str, Any] = {
        **sample_values(config.eval),
        "steps": steps,
        "data": held.source,
        "number_of_prompts": held.batch.rows,
        "shift": config.sampler.shift,
        "grid": config.sampler.grid,
        "model": sample_values(config.eval.model(config.model)),
    }
    if config.eval.train_sampler:
        values["sampler"] = plain(config)["sampler"]
    return {key: public(value) for key, value in values.items()}


def _of_checkpoint(config: Config, source: Weights, folder: Path, world: World) -> Evaluated:
    held = prepare(config)
    policy, engine, ema = assemble.build_policy(config, world)
    try:
        assert source.folder is not None
        kinds = {"prior": PriorState, "history": RewardHistory}
        state.load(source.folder, engine, ema, kinds, world)
        with assemble.averaged_weights(policy, engine, ema):
            return _evaluate(config, policy, engine, encode(held, policy), folder, source, world)
    finally:
        engine.close()


def _evaluate(
    config: Config,
    policy: Policy,
    module: Any,
    held: HeldOut,
    folder: Path,
    source: Weights,
    world: World,
) -> Evaluated:
    """Draw, judge and write, unless another evaluation of that step would be lost."""
    wanted = settings(config, held, ode_steps(policy, config.eval.steps))
    lost = dist.broadcast_object(results.clash(folder, source.step, wanted) if world.is_main else None)
    if lost:
        raise ValueError(
            f"{folder} already holds an evaluation of step {source.step} with other settings ({lost}); type "
            f"{'run_dir=DIR for another folder' if source.run or config.run_dir else 'name=NAME'}"
        )
    masters = module.masters() if hasattr(module, "masters") else policy.trainable()
    weights = fingerprint(policy, masters)
    depends = {"settings": wanted, "weights": weights, "step": source.step, "seed": config.seed}
    drawn = Drawn(folder, depends, world, config.eval.micro_batch or config.train.micro_batch)
    columns, summary = _draw(config, policy, module, held, world, folder, source.step, drawn)
    summary["weights"] = weights
    table = results.frame(held, columns, source.step)
    path = folder / f"step_{source.step:06d}.parquet"
    if world.is_main:
        results.write(folder, table, source.step, summary)
    dist.barrier()
    drawn.remove()
    return Evaluated(folder, path, results.listing(table) if world.is_main else "")


def _draw(
    config: Config,
    policy: Policy,
    module: Callable[..., Any],
    held: HeldOut,
    world: World,
    folder: Path,
    step: int,
    drawn: Drawn | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The columns of an evaluation, and what its summary says beside them; keeps pictures in its folder."""
    policy = policy.at(config.eval.model(policy.config))
    if world.sequence > 1:
        sequence.check(policy, world.sequence)
    fps = policy.frame_rate if policy.config.frames > 1 else pictures.FPS
    rows = config.eval.micro_batch or config.train.micro_batch
    plan = None
    if config.eval.train_sampler:
        plan = sampling.make(policy, config, FIXED)
        plan = replace(plan, seed=config.eval.seed, samples_per_prompt=1, micro_batch=rows)
    columns = evaluate(
        policy,
        module,
        held,
        config.sampler,
        micro_batch=rows,
        world=world,
        retries=config.train.score_retries,
        keep=pictures.keeper(folder, step, held.batch.index, config.eval.pictures, fps),
        trained=plan,
        drawn=drawn,
    )
    summary = {
        "settings": settings(config, held, ode_steps(policy, config.eval.steps)),
        "run_seed": config.seed,
        "processes": world.size,
        "micro_batch": rows,
        "device": world.device.type,
        "git": manifest.git(),
        "versions": manifest.versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return columns, summary


def _load_exported(config: Config, source: Weights, world: World) -> Policy:
    """The policy of a configuration with exported weights in it, in the precision in which the engine runs
    it: adapters are not float32 beside a bfloat16 model.
    """
    policy = load_policy(
        eval_weights.with_exported_model(config, source).model, world.device, seed=config.seed
    )
    if config.model.lora is not None:
        if source.kind == "export":
            assert source.folder is not None
            policy.load_lora(source.folder)
        policy.module.to(policy.dtype)
    return policy
