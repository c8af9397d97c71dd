"""The words after a verb: flags, overrides, names that must exist, the process's place among others."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from rlvis.findings import ConfigError, mistake


def search(folder: str) -> str:
    """The override that lets Hydra find option files in a folder of the user's."""
    return f"hydra.searchpath=['file://{Path(folder).expanduser().absolute()}']"


def require_known(word: str, names: list[str], what: str) -> None:
    """Raise ConfigError with the nearest of `names` where `word` is none of them."""
    if word not in names:
        near = difflib.get_close_matches(word, names, 1, 0.5)
        hint = f"; nearest: {near[0]}" if near else ""
        raise ConfigError(f"unknown {what} {word}{hint}; there are {', '.join(names)}")


def parse(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The flags of `train`, name -> value, and the overrides."""
    short = {"-h": "--help", "-m": "--multirun", "-c": "--cfg", "-cd": "--config-dir"}
    valued = {"--cfg": "job", "--info": "defaults", "--config-dir": ""}  # with what stands for no value
    names = ["--help", "--multirun", "--resolve", *valued]
    flags: dict[str, str] = {}
    overrides: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flag, equals, value = word.partition("=")
        flag = short.get(flag, flag)
        if flag in ("--local_rank", "--local-rank"):
            raise ConfigError(
                f"{word} comes from the launcher; start with deepspeed --no_local_rank train.py ..., or with "
                "torchrun"
            )
        require_known(flag, names, "flag")
        if flag in valued and not equals:
            value = next(rest, valued[flag])
        if flag in valued and not value:
            raise ConfigError(mistake(f"{word} needs a value", f"{flag} {valued[flag] or 'DIR'}"))
        flags[flag.removeprefix("--")] = value
    return flags, overrides


def overrides_of(words: Sequence[str], verb: str) -> tuple[list[str] | None, list[str]]:
    """Of a verb that takes --help and --config-dir alone: the overrides (None where help is wanted), and the
    override that finds the folder of options, if one was named.
    """
    flags, overrides = parse(words)
    if "help" in flags:
        return None, []
    if odd := set(flags) - {"config-dir"}:
        raise ConfigError(f"--{min(odd)} belongs to rlvis train; rlvis {verb} takes --help and --config-dir")
    return overrides, [search(flags["config-dir"])] if "config-dir" in flags else []


def process() -> tuple[int, int]:
    """(rank, world size) as a launcher set them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
