"""The terms of a run, from its RewardConfig."""

from __future__ import annotations

import logging

from rlvis.reward import function
from rlvis.reward.boundary import Boundary
from rlvis.reward.cache import Store, wrap
from rlvis.reward.contract import Scorer, Term
from rlvis.reward.facts import SCORERS
from rlvis.reward.frames import Chosen
from rlvis.schema import Executor, RewardConfig, RewardTerm

log = logging.getLogger(__name__)

PATIENT = 15.0  # seconds that a server rests at most where a step waits for it


def build(config: RewardConfig) -> list[Term]:
    """The terms of a run, in the order of the config; scorers that are classes are constructed here, once.

    Raises ValueError when there is no term, a scorer does not exist or its kwargs do not fit.
    """
    if not config.terms:
        raise ValueError(
            "the reward has no terms, so there is nothing to train on; type reward=NAME, or "
            f"+reward.terms.NAME.scorer=S with S one of {', '.join(SCORERS.names())} or a dotted path, as "
            "my_rewards.redness"
        )
    store = None if config.cache is None else Store(config.cache)
    terms = []
    for name, term in config.terms.items():
        where = f"reward.terms.{name}"
        elsewhere = _elsewhere(config, name, term, where)
        timeout = config.call_seconds if elsewhere is None else None  # else the client has its own
        terms.append(one(name, term, where, store, elsewhere, timeout))
    return terms


def one(
    name: str,
    term: RewardTerm,
    where: str,
    store: Store | None = None,
    scorer: Scorer | None = None,
    timeout: float | None = None,
) -> Term:
    """A term of `terms.NAME`, its scores kept in `store` if there is one; scorer: takes the place of one that
    is made here; timeout: seconds for a call. Raises ValueError as `build` does.
    """
    if scorer is None:
        scorer = function.load(term.scorer, term.kwargs, where)
    if store is not None:
        scorer = wrap(scorer, name, store, SCORERS.path(term.scorer), term.kwargs)
    if term.frames != "all":
        scorer = Chosen(scorer, term.frames)
    return Term(name, scorer, float(term.weight), Boundary(timeout))


def _elsewhere(config: RewardConfig, name: str, term: RewardTerm, where: str) -> Scorer | None:
    """The scorer of a term that is not loaded here (reward.executor); None where it is."""
    if config.executor is Executor.http:
        from rlvis.reward.serving.client import Remote

        remote = Remote(config.servers, name, config.token_env, config.call_seconds, config.hedge)
        if config.patience:
            remote.servers.longest = PATIENT
        if remote.scorer != term.scorer:
            log.warning("%s.scorer=%s here, and %s at the servers", where, term.scorer, remote.scorer)
        return remote
    if config.executor is Executor.ray:
        from rlvis.reward.serving.ray import Pool

        return Pool(
            term.scorer,
            dict(term.kwargs),
            where=where,
            actors=config.actors,
            timeout=config.call_seconds,
            terms=len(config.terms),
        )
    return None
