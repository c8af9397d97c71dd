"""What a transform is: Advantages in, Advantages out, after normalisation and trust, before the clamp.

The modules of rlvis/advantage/transforms are ours; one of the user's own is a function named by its dotted
path. It sees terms that are turned so that every coefficient is at least 0, and no map; it may change terms
and coefficients and leave samples out. What comes after is best-of-N (by the transformed terms), the clamp
and advantage.sign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from rlvis.findings import ConfigError, mistake
from rlvis.named import Folder, bind
from rlvis.records import Advantages, Rewards, Trust
from rlvis.schema import AdvantageConfig

CONTRACT = """\
def my_transform(advantages, rewards, trust, **kwargs):
    # advantages: term [A, P, K] float64, coef [A] >= 0, names, keep [P, K]; trust: weight [P, Q];
    # rewards: term [P, K, R] (NaN where not valid), valid [P, K]
    return advantages.replace(term=...)  # of the same shape, finite, 0 where not rewards.valid"""
TRANSFORMS = Folder("advantage.transform", "rlvis.advantage.transforms", CONTRACT)
ARGUMENTS = ("advantages", "rewards", "trust")

Transform = Callable[[Advantages, Rewards, Trust], Advantages]


def transforms_of(config: AdvantageConfig) -> list[tuple[str, Transform]]:
    """The transforms of a configuration in their order, each with its name.

    Raises ConfigError: there is none of a name, it cannot be called as one, or keywords do not fit or belong
    to none.
    """
    kwargs = config.transform_kwargs
    for name, given in kwargs.items():
        if name not in map(_last, config.transform):
            raise ConfigError(
                mistake(
                    f"advantage.transform_kwargs.{name} belongs to none of "
                    f"advantage.transform=[{','.join(config.transform)}]",
                    "the last part of a transform's name in its place",
                )
            )
        if not isinstance(given, dict):
            raise ConfigError(
                mistake(
                    f"advantage.transform_kwargs.{name}={given}: wanted keywords",
                    f"advantage.transform_kwargs.{name}.KEYWORD=VALUE",
                )
            )
    made: list[tuple[str, Transform]] = []
    for name in config.transform:
        found, given = TRANSFORMS.find(name), kwargs.get(_last(name), {})
        key = f"advantage.transform_kwargs.{_last(name)}"
        bind(found, ARGUMENTS, given, f"advantage.transform={name}", key=key, contract=CONTRACT)
        made.append((name, partial(found, **given)))
    return made


def transformed(
    advantages: Advantages, rewards: Rewards, trust: Trust, transforms: Sequence[tuple[str, Transform]]
) -> Advantages:
    """`advantages` through all transforms. Raises ConfigError where one returns what it may not."""
    for name, transform in transforms:
        try:
            after: Any = transform(advantages, rewards, trust)
        except ConfigError:
            raise
        except ValueError as error:  # a record that refuses what was put into it
            raise TRANSFORMS.misfit(name, f"it raises {type(error).__name__}: {error}") from error
        if wrong := _wrong(after, advantages, rewards):
            raise TRANSFORMS.misfit(name, f"it returns {wrong}")
        advantages = after
    return advantages


def _last(name: str) -> str:
    return name.replace(":", ".").rpartition(".")[2]


def _wrong(after: Any, before: Advantages, rewards: Rewards) -> str:
    """What a transform may not return, in words; empty where it may. A record is known to be finite."""
    if not isinstance(after, Advantages):
        return f"a {type(after).__name__}, no Advantages"
    if after.term.shape != before.term.shape or after.names != before.names:
        return (
            f"terms {list(after.term.shape)} named {', '.join(after.names)}, "
            f"for {list(before.term.shape)} named {', '.join(before.names)}"
        )
    if after.map is not None or after.field is not None:
        return "a map or a field, which are made after it"
    if bool(after.term[:, ~rewards.valid].any()):
        return "terms that are not 0 where not rewards.valid"
    if bool((after.keep & ~before.keep).any()):
        return "samples in keep that were left out before"
    if not bool((torch.isfinite(after.coef) & (after.coef >= 0)).all()):
        return f"the coefficients {after.coef.tolist()}, which must be finite and at least 0"
    return ""
