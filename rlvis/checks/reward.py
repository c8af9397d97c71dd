"""Rules about rewards: scorers that exist and take their kwargs, and what the executor needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rlvis.findings import ConfigError, Finding, mistake
from rlvis.reward.facts import SCORERS, Facts, facts, fit
from rlvis.reward.serving.servers import address
from rlvis.schema import Config, Executor, MapSource, RewardConfig, RewardTerm, Stage
from rlvis.schema.key import text

SCORING = (Stage.all, Stage.score, Stage.reference)


def reward_errors(config: Config, ranks: int) -> Iterator[Finding]:
    """What is wrong with the scorers, and contradictions between the keys of `reward` (and train.shard).

    ranks: processes that share out the samples of a step.
    """
    reward = config.reward
    if reward.executor is Executor.http:
        yield from _servers(reward)
    yield from _weights(config)
    yield from _overlap(config, ranks)
    yield from _refill(config)
    yield from _canary(config, ranks)
    if config.stage in SCORING:
        yield from scorer_errors(reward)
        yield from _groups(config, ranks)


def scorer_errors(reward: RewardConfig) -> Iterator[Finding]:
    """What is wrong with the scorers of a reward and with their kwargs; servers have their own."""
    if reward.executor is not Executor.http:
        yield from term_errors(_known(reward), "reward")


def _known(reward: RewardConfig) -> dict[str, RewardTerm]:
    """The terms whose scorers are here: all, or those of rlvis where servers or actors have the others."""
    far, ours = reward.executor in (Executor.http, Executor.ray), SCORERS.names()
    return {name: term for name, term in reward.terms.items() if not far or term.scorer in ours}


def facts_of(reward: RewardConfig) -> dict[str, Facts]:
    """What the scorers state, of the terms that are known here and have kwargs that fit."""
    terms = {k: term for k, term in _known(reward).items() if not any(term_errors({k: term}, "reward"))}
    return {name: facts(term.scorer, term.kwargs) for name, term in terms.items()}


def term_errors(terms: Mapping[str, RewardTerm], where: str) -> Iterator[Finding]:
    """What is wrong with the scorers and kwargs of terms; where: whose, reward or eval."""
    for name, term in terms.items():
        try:
            fit(term.scorer, term.kwargs, f"{where}.terms.{name}")
        except ConfigError as error:
            yield from error.findings


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
    if reward.hedge is not None and reward.hedge >= reward.call_seconds:
        yield mistake(
            f"reward.hedge={reward.hedge} with reward.timeout={reward.call_seconds}: wanted seconds below "
            "the timeout",
            "reward.hedge=null",
        )
    elif reward.hedge is not None and len(reward.servers) == 1:
        yield mistake(
            f"reward.hedge={reward.hedge} asks a second server, and reward.servers has one",
            "reward.hedge=null, or name another server",
        )


def _weights(config: Config) -> Iterator[Finding]:
    """Something has to count."""
    weights = {name: term.weight for name, term in config.reward.terms.items()}
    if weights and not any(weights.values()) and config.stage is Stage.all:
        first, others = next(iter(weights)), ", and that of all others" if len(weights) > 1 else ""
        yield mistake(
            f"reward.terms.{first}.weight=0{others}: a term of weight 0 is scored and logged, and there is "
            "nothing to train on",
            f"reward.terms.{first}.weight=1",
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
    if rounds > 0 and config.stage is not Stage.all:
        yield mistake(
            f"reward.refill={rounds} rolls failed samples out anew within a whole step, but "
            f"stage={config.stage} runs one stage",
            "reward.refill=0",
        )


def _canary(config: Config, ranks: int) -> Iterator[Finding]:
    canary = config.reward.canary
    if not canary.every:
        return
    owned = config.data.prompts_per_step * config.data.samples_per_prompt // max(1, ranks)
    if canary.samples > max(2, owned):
        yield mistake(
            f"reward.canary.samples={canary.samples}: wanted at most the {owned} samples that the first "
            "process makes in a step",
            f"reward.canary.samples={min(4, max(2, owned))}",
        )
    if config.stage is not Stage.all:
        yield mistake(
            f"reward.canary.every={canary.every} looks during training, but stage={config.stage} runs "
            "one stage",
            "reward.canary.every=0",
        )


def _groups(config: Config, ranks: int) -> Iterator[Finding]:
    """A judge that compares the samples of a prompt has to see all of them in one call."""
    reward, data, shard = config.reward, config.data, config.train.shard
    size, ranks = data.samples_per_prompt, max(1, ranks)
    for name, stated in facts_of(reward).items():
        if stated.group is None:
            continue
        kwarg, value = stated.group
        what = f"reward.terms.{name} compares the samples of a prompt with each other"
        key = f"reward.terms.{name}.kwargs.{kwarg}"
        if value != size:
            yield mistake(f"{key}={text(value)}, but data.samples_per_prompt={size}", f"{key}={size}")
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
                f"{what}, but reward.executor={reward.executor} shares the samples of a call out",
                "reward.executor=inline",
            )
