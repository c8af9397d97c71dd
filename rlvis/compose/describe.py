"""What can be chosen and set: groups, their options with a line about each (the first comment of its file),
and the keys of a section with what the schema says of them.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import OmegaConf

from rlvis import schema
from rlvis.compose import names
from rlvis.compose.command import compose
from rlvis.compose.files import CONF
from rlvis.schema.key import Key, text

WIDTH = 110  # columns of a listing
RUN = "run"  # what the keys outside of all sections are listed under


class Row(NamedTuple):
    """A key as a reader sees it: its default, the unit of its numbers, the values it takes, the conditions
    (KEY=A|B, one of which must hold) under which it is read, what it is, and whether it is the size of a run,
    which no option replaces.
    """

    key: str
    default: str
    unit: str
    domain: str
    read_with: str
    about: str
    is_size: bool


def table() -> dict[str, dict[str, str]]:
    """{group: {option: its line}}, groups in the order of the configuration, the default option first."""
    result = {}
    for group in names.choices():
        files = sorted((CONF / group).glob("*.yaml"), key=lambda f: (f.stem != default(group), f.stem))
        result[group] = {file.stem: first_comment(file) for file in files}
    return result


def default(group: str) -> str | None:
    """The option of a group that `python train.py` alone takes; None where it takes none."""
    entries = yaml.safe_load((CONF / "train.yaml").read_text(encoding="utf-8"))["defaults"]
    chosen = next(entry[group] for entry in entries if isinstance(entry, dict) and group in entry)
    first = chosen[0] if isinstance(chosen, list) else chosen
    return None if first is None else str(first)


def first_comment(file: Path) -> str:
    """The first comment line of a yaml file that is not a directive to Hydra."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ").rstrip()
    return ""


def sections() -> list[str]:
    """What `rows` knows: the sections of the configuration, and `run` for the keys outside of all."""
    kinds = names.fields(schema.Config)
    return [*(name for name, kind in kinds.items() if dataclasses.is_dataclass(kind)), RUN]


def rows(group: str) -> list[Row]:
    """Every key of a section (one of `sections`), also below those that are null; names in open mappings are
    NAME. Nothing here imports torch.
    """
    if group == RUN:
        found = [entry for entry in names.entries() if "." not in entry.key]
    else:
        found = list(names.entries(names.child(schema.Config, group), f"{group}."))
    return [_row(*entry) for entry in found if not names.fields(entry.kind) or entry.field.default is None]


def _row(key: str, kind: Any, mark: Key, field: dataclasses.Field[Any]) -> Row:
    takes = "null, or a section" if names.fields(kind) else "" if mark.choices else names.wanted(kind)
    domain = ", ".join(filter(None, (takes, mark.domain(), mark.relation)))
    read_with = " or ".join(mark.only).replace("=set", " set")
    return Row(key, _default(field), mark.unit, domain, read_with, mark.about, mark.budget)


def _default(field: dataclasses.Field[Any]) -> str:
    """The value of a key that nothing sets, as it is typed; empty where it must be set."""
    made = field.default_factory
    value = field.default if made is dataclasses.MISSING else made()
    return "" if value in ("???", dataclasses.MISSING) else "{}" if value == {} else text(value)


def listing(groups: Sequence[str] | None = None) -> str:
    """The table as text, all groups or the named ones; `*` marks what is taken when nothing is said."""
    lines = []
    for group, options in table().items():
        if not options or (groups and group not in groups):
            continue
        lines.append(group)
        width = max(map(len, options)) + 1
        lines += [
            f"  {option + ('*' if option == default(group) else ''):{width}}  {about}"
            for option, about in options.items()
        ]
    return "\n".join(lines)


def keys(group: str) -> str:
    """The keys of a section as text, each with its default, its domain, when it is read, and what it is."""
    lines = []
    for row in rows(group):
        unit = f" {row.unit}" if row.unit else ""
        lines.append(f"{row.key}={row.default or '...'}{unit}")
        said = f"{row.about}; {row.domain}" + (f"; read with {row.read_with}" if row.read_with else "")
        lines += textwrap.wrap(said, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def section(group: str, option: str) -> str:
    """The keys of a group with their values in that option, as yaml."""
    values = OmegaConf.to_container(compose([f"{group}={option}"]).config[group], enum_to_str=True)
    return str(yaml.safe_dump(values, sort_keys=False, default_flow_style=None)).rstrip()
