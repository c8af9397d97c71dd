"""Weights of the models that judge samples: reward models, by what their scorers state, and the map's
backbone, by its configuration file.

Only weights: what their forwards allocate is not counted. What cannot be counted is named.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlvis.advantage.maps import backbone, choice
from rlvis.reward.facts import facts
from rlvis.schema import Config, Executor, MapSource


@dataclass(frozen=True)
class Judges:
    """weights: (name, bytes on the GPU). uncounted: what is not among them, in words."""

    weights: tuple[tuple[str, int], ...]
    uncounted: tuple[str, ...]


def judges(config: Config) -> Judges:
    """The judges of a run."""
    weights, uncounted = [], []
    elsewhere = config.reward.executor in (Executor.http, Executor.ray)
    for name, term in config.reward.terms.items() if not elsewhere else ():
        count = facts(term.scorer, term.kwargs).gpu_bytes()
        if isinstance(count, str):
            uncounted.append(f"reward {name} ({term.scorer}): {count}")
        elif count:
            weights.append((f"reward {name}", count))
    map_ = choice.chosen(config)
    if map_.source is not MapSource.none:
        count = backbone.weight_bytes(map_)
        if isinstance(count, str):
            uncounted.append(f"map backbone {map_.backbone}: {count}")
        else:
            weights.append(("map backbone", count))
    if weights or uncounted:
        uncounted.append("activations of reward models and of the map's backbone")
    return Judges(tuple(weights), tuple(uncounted))
