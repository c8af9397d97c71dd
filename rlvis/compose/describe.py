"""What can be chosen: groups, their options, and one line about each, read from the first comment of its
file.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from omegaconf import OmegaConf

from rlvis.compose import names
from rlvis.compose.command import CONF, compose


def table() -> dict[str, dict[str, str]]:
    """{group: {option: its line}}, groups in the order of the configuration, the default option first."""
    result = {}
    for group in (*names.groups(), *names.WHOLE):
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


def listing(groups: list[str] | None = None) -> str:
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


def section(group: str, option: str) -> str:
    """The keys of a group with their values in that option, as yaml."""
    values = OmegaConf.to_container(compose([f"{group}={option}"]).config[group], enum_to_str=True)
    return str(yaml.safe_dump(values, sort_keys=False, default_flow_style=None)).rstrip()
