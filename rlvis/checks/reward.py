"""Rules about how rewards are asked: what the executor needs, and what it would leave without effect."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rlvis.findings import Finding, mistake
from rlvis.reward.serving.servers import address
from rlvis.schema import CanaryConfig, Config, Executor, MapSource, RewardConfig, Stage

# Keys of `reward` that only some executors read.
READERS = {
    "servers": (Executor.http,),
    "token_env": (Executor.http,),
    "timeout": (Executor.http, Executor.ray),
    "hedge": (Executor.http,),
    "actors": (Executor.ray,),
}


def reward_errors(config: Config, ranks: int) -> Iterator[Finding]:
    """Contradictions between the keys of `reward` (and train.shard).

    ranks: processes that share out the samples of a step.
    """
    reward, usual = config.reward, RewardConfig()
    for key, readers in READERS.items():
        value, executor = getattr(reward, key), reward.executor
        if value != getattr(usual, key) and executor not in readers:
            names = " or ".join(f"reward.executor={reader.value}" for reader in readers)
            yield mistake(
                f"reward.{key}={_typed(value)} does nothing with reward.executor={executor.value}",
                f"{names}, or reward.{key}={_typed(getattr(usual, key))}",
            )
    if not (math.isfinite(reward.timeout) and reward.timeout > 0):
        yield mistake(f"reward.timeout={reward.timeout}: wanted seconds above 0", "reward.timeout=120")
    if reward.actors < 1:
        yield mistake(f"reward.actors={reward.actors}: wanted at least 1", "reward.actors=1")
    if reward.executor is Executor.http:
        yield from _servers(reward)
    yield from _overlap(config, ranks)
    yield from _refill(config)
    yield from _canary(config, ranks)
    yield from _pairwise(config, ranks)


def _servers(reward: RewardConfig) -> Iterator[Finding]:
    if not reward.servers:
        yield mistake(
            "reward.executor=http asks servers, and reward.servers is empty; start one with rlvis serve "
            "reward=NAME and type reward.servers=[http://127.0.0.1:8700]"
        )
    known: set[str] = set()
    for url in reward.servers:
        try:
            plain = address(url)
        except ValueError as error:
            yield mistake(f"reward.servers: {error}")
            continue
        if plain in known:
            yield mistake(
                f"reward.servers names {plain} twice", "it once: a server scores one batch at a time"
            )
        known.add(plain)
    if reward.hedge is not None:
        if not 0 < reward.hedge < reward.timeout:
            yield mistake(
                f"reward.hedge={reward.hedge} with reward.timeout={reward.timeout}: wanted seconds above 0 "
                "and below the timeout",
                "reward.hedge=null",
            )
        elif len(reward.servers) == 1:
            yield mistake(
                f"reward.hedge={reward.hedge} asks a second server, and reward.servers has one",
                "reward.hedge=null, or name another server",
            )


def _overlap(config: Config, ranks: int) -> Iterator[Finding]:
    """A thread beside the rollout needs a next shard to roll out (or maps to make)."""
    data, shard = config.data, config.train.shard
    rows = -(-data.prompts_per_step * data.samples_per_prompt // max(1, ranks))
    alone = config.stage is Stage.all and config.advantage.map.source is MapSource.none
    if config.reward.executor is Executor.thread and alone and not 0 < shard < rows:
        yield mistake(
            f"reward.executor=thread scores a shard while the next is rolled out, but train.shard={shard} "
            f"takes all {rows} samples of a process at once",
            f"train.shard={max(1, rows // 4)} (best a multiple of train.micro_batch), or "
            "reward.executor=inline",
        )


def _refill(config: Config) -> Iterator[Finding]:
    rounds = config.reward.refill
    if rounds < 0:
        yield mistake(f"reward.refill={rounds}: wanted 0 or more rounds of fresh samples", "reward.refill=0")
    if rounds > 0 and config.stage is not Stage.all:
        yield mistake(
            f"reward.refill={rounds} rolls failed samples out anew within a whole step, but "
            f"stage={config.stage.value} runs one stage",
            "reward.refill=0",
        )


def _canary(config: Config, ranks: int) -> Iterator[Finding]:
    canary, usual = config.reward.canary, CanaryConfig()
    if canary.every < 0:
        yield mistake(
            f"reward.canary.every={canary.every}: wanted 0 (never) or more", "reward.canary.every=0"
        )
    if not canary.every:
        for key in ("samples", "tolerance"):
            if getattr(canary, key) != getattr(usual, key):
                yield mistake(
                    f"reward.canary.{key}={getattr(canary, key)} does nothing with reward.canary.every=0",
                    f"reward.canary.every=20, or reward.canary.{key}={getattr(usual, key)}",
                )
        return
    owned = config.data.prompts_per_step * config.data.samples_per_prompt // max(1, ranks)
    if not 2 <= canary.samples <= max(2, owned):
        yield mistake(
            f"reward.canary.samples={canary.samples}: wanted at least 2, whose spread is the unit of the "
            f"tolerance, and at most the {owned} samples that the first process makes in a step",
            f"reward.canary.samples={min(4, max(2, owned))}",
        )
    if not (math.isfinite(canary.tolerance) and canary.tolerance > 0):
        yield mistake(
            f"reward.canary.tolerance={canary.tolerance}: wanted a number above 0, in units of the spread of "
            "the first scores",
            "reward.canary.tolerance=1e-3",
        )
    if config.stage is not Stage.all:
        yield mistake(
            f"reward.canary.every={canary.every} looks during training, but stage={config.stage.value} runs "
            "one stage",
            "reward.canary.every=0",
        )


def _pairwise(config: Config, ranks: int) -> Iterator[Finding]:
    """A judge that compares the samples of a prompt has to see all of them in one call."""
    reward, data, shard = config.reward, config.data, config.train.shard
    size, ranks = data.samples_per_prompt, max(1, ranks)
    names = [
        name
        for name, term in reward.terms.items()
        if term.scorer == "vlm" and term.kwargs.get("mode") == "pairwise"
    ]
    for name in names:
        what = f"reward.terms.{name} compares the samples of a prompt with each other (mode=pairwise)"
        key = f"reward.terms.{name}.kwargs.group"
        group = reward.terms[name].kwargs.get("group")
        if group != size:
            yield mistake(f"{key}={_typed(group)}, but data.samples_per_prompt={size}", f"{key}={size}")
        if data.prompts_per_step % ranks:
            yield mistake(
                f"{what}, but {data.prompts_per_step} prompts on {ranks} processes split groups between them",
                f"data.prompts_per_step={-(-data.prompts_per_step // ranks) * ranks}",
            )
        if shard % size:
            yield mistake(
                f"{what}, but train.shard={shard} splits groups of {size}",
                f"train.shard={-(-shard // size) * size}",
            )
        if reward.refill:
            yield mistake(f"{what}, and fresh samples have no group to be compared with", "reward.refill=0")
        if reward.canary.every and reward.canary.samples % size:
            yield mistake(
                f"{what}, and reward.canary.samples={reward.canary.samples} are no whole groups",
                f"reward.canary.samples={size}",
            )
        if reward.executor in (Executor.http, Executor.ray):
            yield mistake(
                f"{what}, but reward.executor={reward.executor.value} shares the samples of a call out",
                "reward.executor=inline (the endpoint is elsewhere anyway)",
            )


def _typed(value: object) -> str:
    """A value as it is typed."""
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return "null" if value is None else str(value)
