"""How to run it again: command and commit, what was changed from the defaults, everything else folded."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from rlvis.report.folder import section
from rlvis.report.panels.base import Context, Panel, Table, short

OF_START = ("run_dir", "resume", "resume_allow", "dry_run")  # say where, not what
CUT = 100_000  # characters of a configuration in the page


def reproduce(context: Context) -> Panel:
    """The command of the run and the commit it ran at."""
    manifest = context.run.manifest
    command = manifest.get("command")
    if not command:
        return Panel("Reproduce", "text", "", "The manifest names no command.")
    lines = [command if isinstance(command, str) else shlex.join(str(part) for part in command)]
    git = section(manifest, "git")
    commit = git.get("commit")
    if commit:
        lines.insert(0, f"git checkout {shlex.quote(str(commit))}")
    note = "The working tree had changes that are not in this commit." if git.get("dirty") else ""
    return Panel("Reproduce", "text", "\n".join(lines), note)


def changed(context: Context) -> Panel:
    """The keys of which the value is not the default."""
    title = "Changed from the defaults"
    if context.defaults is None:
        return Panel(
            title, "text", "", "The defaults are not known here; rlvis report RUN compares with them."
        )
    if not context.run.config:
        return Panel(title, "text", "", "config.yaml is missing or unreadable, so nothing can be compared.")
    default, values = dict(flatten(context.defaults)), dict(flatten(context.run.config))
    rows = [
        (key, short(default.get(key, "-")), short(values.get(key, "-")))
        for key in dict.fromkeys([*values, *default])
        if default.get(key) != values.get(key) and key not in OF_START
    ]
    note = "" if rows else "Nothing: this run had the defaults."
    return Panel(title, "table", Table(("key", "default", "this run"), rows) if rows else None, note)


def configuration(context: Context) -> Panel:
    """The resolved configuration as it was written."""
    text = context.run.config_text
    note = "" if text else "config.yaml is missing."
    if len(text) > CUT:
        note = f"The first {CUT} of {len(text)} characters; config.yaml in the run folder has all."
    return Panel("Whole configuration", "text", text[:CUT], note, folded=True)


def manifest(context: Context) -> Panel:
    """Everything the manifest says, flattened to rows."""
    values = context.run.manifest
    note = "" if values else "manifest.json is missing or unreadable."
    rows = [(key, short(value, 400)) for key, value in flatten(values)[:400]]
    return Panel("Manifest", "table", Table(("field", "value"), rows) if rows else None, note, folded=True)


def flatten(tree: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as (dotted name, text) rows; other values as JSON or text."""
    if isinstance(tree, Mapping) and (tree or not prefix):
        return [
            row
            for key, value in tree.items()
            for row in flatten(value, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [(prefix, tree if isinstance(tree, str) else json.dumps(tree, default=str))]
