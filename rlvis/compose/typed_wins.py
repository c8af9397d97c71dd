"""What is typed wins: which of an experiment's values an option replaces that is typed beside it.

An experiment's (or debug's) values belong to the option it chose. Where another option of that group is
typed, the keys that the file of either writes take the new option's values, and all else of the experiment
stays: its clip range goes with advantage=guard, its batch and its model do not. Lifting every key of the new
option would lose the size of the batch; lifting none would keep numbers that fit another method.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# Files of one group, parents included -> keys at the first level of the group's section that each writes.
Written = Mapping[str, Collection[str]]


def taken(new: Written, old: Written, budget: Collection[str]) -> set[str]:
    """Keys of a section that take the new option's values.

    new, old: the files of the option that is typed and of the one that the experiment chose. budget: keys of
    the section that are the size of a run, which no option replaces. The option already chosen takes none.
    """
    if set(new) == set(old):
        return set()
    return {key for written in (new, old) for keys in written.values() for key in keys} - set(budget)


def differences(key: str, before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    """Dotted keys at and below `key` whose plain values differ, with both; a section that comes or goes is
    one key.
    """
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return {} if before == after else {key: (before, after)}
    found: dict[str, tuple[Any, Any]] = {}
    for name in dict.fromkeys([*before, *after]):
        found |= differences(f"{key}.{name}", before.get(name), after.get(name))
    return found
