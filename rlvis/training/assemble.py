"""From a configuration to the parts of a run: prompts, scorers, policy, engine, average."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rlvis.advantage.maps import choice, psm
from rlvis.checks import data as data_checks
from rlvis.checks.sentinels import needs_reference
from rlvis.data import prompts as data
from rlvis.evaluation.prompts import encode, prepare
from rlvis.models.ema import Ema
from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.models.sequence import share_tokens
from rlvis.reward import scorer
from rlvis.runtime.deepspeed_setup import quiet_deepspeed
from rlvis.runtime.dist import World
from rlvis.runtime.engine import Engine
from rlvis.schema import Config, MapSource, Stage
from rlvis.training.parts import Parts

log = logging.getLogger(__name__)


def assemble(config: Config, world: World) -> Parts:
    """Load everything a training step needs; cheap things first, so that mistakes show before weights are
    read.

    Raises:
        ValueError: whatever a prompt file, a scorer or a checkpoint has to complain about.
    """
    set_threads(config, world)
    prompts = data.load_prompts(config.data, (config.model.height, config.model.width))
    terms = scorer.build(config.reward)
    data_checks.check_prompts(config.reward, prompts)
    held = prepare(config) if config.eval.every and config.stage is Stage.all else None
    perceptual_map = build_map(config, world)
    policy, engine, ema = build_policy(config, world)
    held = None if held is None else encode(held, policy)
    return Parts(config, world, prompts, terms, policy, engine, ema, perceptual_map, held_out=held)


def build_policy(config: Config, world: World) -> tuple[Policy, Engine, Ema | None]:
    """The policy, its engine and its average, as a run begins with them.

    Raises:
        ValueError: whatever a checkpoint has to complain about.
    """
    quiet_deepspeed(world.device.type)
    whole = config.model.lora is None
    policy = load_policy(
        config.model, world.device, keep_reference=whole and needs_reference(config), seed=config.seed
    )
    share_tokens(policy, world)
    # Counted here, as an engine of stage 3 leaves shards.
    trained = sum(p.numel() for _, p in policy.trainable())
    total = sum(p.numel() for p in policy.module.parameters())
    engine = Engine(policy.module, config.engine, config.optim, config.model.dtype, world)
    average = config.model.ema
    ema = None if average is None else Ema(engine.masters(), decay=average.decay, every=average.every)
    log.info(
        "policy: %s, %.2f M trained of %.2f M, %s, on %s",
        config.model.path,
        trained / 1e6,
        total / 1e6,
        config.model.dtype,
        world.device,
    )
    return policy, engine, ema


@contextmanager
def averaged_weights(policy: Policy, engine: Engine, ema: Ema | None) -> Iterator[None]:
    """Inside it the policy holds the averaged weights, if there is an average."""
    if ema is None:
        yield
        return
    with ema.swapped(policy, read=engine.masters, write=engine.set_masters):
        yield


def build_map(config: Config, world: World) -> psm.PerceptualMap | None:
    """What makes maps, with its backbone loaded; None without a source of maps.

    Raises:
        ValueError: the backbone cannot be had, or frames are too small for it.
    """
    maps, model = choice.chosen(config), config.model
    if maps.source is MapSource.none:
        return None
    return psm.build(maps, world.device, model.height, model.width)


def set_threads(config: Config, world: World) -> None:
    """Torch's threads on a CPU: as configured, else the cores shared out among this machine's processes."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    elif local > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local))
