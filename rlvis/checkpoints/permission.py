"""What a resumed run may change (resume_allow), what it never can, and where a change is written down.

RUN/changes.jsonl    {"step": 20, "key": "optim.lr", "before": 0.0003, "after": 0.0001}: from after step 20
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvis.findings import ConfigError

log = logging.getLogger(__name__)

# What no permission can change, because the saved state is laid out for it, with what depends on it.
FIXED = {
    "engine.stage": "the optimizer's state is sharded for it",
    "engine.config": "the optimizer's state is sharded for it",
    "model.family": "the weights are of that family",
    "model.dtype": "the optimizer's state is kept for it",
    "model.lora": "the trained weights are those adapters",
    "prior.kind": "the prior's memory is of that kind",
}
PRESENT = {"model.ema": "the average", "reward.terms": "the rewards whose statistics are kept"}
CHANGES = "changes.jsonl"


def find_changes(
    before: dict[str, Any], now: dict[str, Any], allowed: Sequence[str]
) -> list[tuple[str, Any, Any]]:
    """(key, value before, value now) of the changes that `allowed` names. before, now: nested values."""
    old, new = flat(before), flat(now)
    keys = sorted(key for key in {*old, *new} if is_named(key, allowed))
    return [(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def note_changes(folder: Path, step: int, changes: Sequence[tuple[str, Any, Any]]) -> None:
    """Add to RUN/changes.jsonl what is other from here on, after `step` finished steps; once, also where the
    run was killed right after.
    """
    path = folder / CHANGES
    known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for key, before, after in changes:
        log.info(
            "resume_allow: %s was %s and is now %s, after step %d", key, shown(before), shown(after), step
        )
        line = json.dumps({"step": step, "key": key, "before": before, "after": after})
        if line not in known:
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def noted(folder: Path) -> dict[str, Any]:
    """Key -> the value that RUN/changes.jsonl says it was last changed to."""
    path = folder / CHANGES
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    values: dict[str, Any] = {}
    for line in lines:
        try:
            change = json.loads(line)
            values[str(change["key"])] = change["after"]
        except (ValueError, KeyError, TypeError):
            log.warning("%s: a line cannot be read and was left out", path)
    return values


def check_known(allowed: Sequence[str], keys: Sequence[str]) -> None:
    """Refuse a permission for what is no key."""
    for name in allowed:
        if not any(is_named(key, [name]) for key in keys):
            near = difflib.get_close_matches(name, keys, 1, 0.5)
            hint = f"; nearest: {near[0]}" if near else ""
            raise ConfigError(f"resume_allow names {name}, which is no key{hint}")


def check_possible(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Refuse what no permission can change."""
    old, new = flat(before), flat(after)
    for key in sorted({*old, *new}):
        for fixed, why in FIXED.items():
            if is_named(key, [fixed]) and old.get(key) != new.get(key):
                raise ConfigError(
                    f"resume: {key} was {shown(old.get(key))} and is now {shown(new.get(key))}, which "
                    f"cannot change in a run, whatever resume_allow says: {why}. Start a new run without "
                    "resume="
                )
    for section, what in PRESENT.items():
        held = [get(nested, section) or {} for nested in (before, after)]
        was, now = (sorted(key for key, value in node.items() if value is not None) for node in held)
        if was != now:
            raise ConfigError(
                f"resume: {section} had {', '.join(was) or 'nothing'} and has now "
                f"{', '.join(now) or 'nothing'}, which cannot change in a run, whatever resume_allow says: a "
                f"checkpoint holds {what}. Start a new run without resume="
            )


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim.lr": 3e-4, ...}; lists and empty mappings are values."""
    result: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, dict) and value:
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = value
    return result


def is_named(key: str, touched: Sequence[str]) -> bool:
    sections = (t.removesuffix("*") for t in touched if t.endswith("*"))
    return any(key == t or key.startswith(f"{t}.") for t in touched) or any(
        key.startswith(s) for s in sections
    )


def shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def put(nested: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(nested.get(parent), dict):  # a section that was null
            nested[parent] = {}
        nested = nested[parent]
    nested[last] = value


def get(nested: Any, key: str) -> Any:
    for part in key.split(".") if key else ():
        nested = nested.get(part) if isinstance(nested, dict) else None
    return nested
