"""`rlvis train --cfg` and `--info`: what the words compose to, without a run.

The job is ours, as a run takes it; what concerns Hydra itself (`--cfg hydra`, `--info defaults`) is printed
by Hydra's own code from the same files.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlvis.cli.arguments import require_known
from rlvis.findings import ConfigError, mistake

if TYPE_CHECKING:
    from rlvis.compose.command import Composed

CFG = ("job", "hydra", "all")
INFO = ("defaults", "defaults-tree", "searchpath", "plugins")


def cfg(kind: str, words: Sequence[str], *, resolve: bool, sweeps: bool) -> None:
    """`--cfg job|hydra|all`. resolve: with interpolations filled in; sweeps: beside `-m`.

    Raises ConfigError for a mistake in the words.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from rlvis.compose.files import one_line, session

    require_known(kind, list(CFG), "--cfg")
    if sweeps:
        raise ConfigError(mistake("--cfg prints the configuration of one run", "the words of one without -m"))
    composed, plugins = _composed(words)
    if kind != "job":
        with session() as hydra:
            hydra.show_cfg("train", [*composed.choices, *plugins], "hydra", None, resolve)
    if kind != "hydra":
        try:
            print(OmegaConf.to_yaml(composed.config, resolve=resolve), end="")
        except OmegaConfBaseException as error:
            raise ConfigError(one_line(error)) from error


def info(kind: str, words: Sequence[str]) -> None:
    """`--info defaults|defaults-tree|searchpath|plugins`. Raises ConfigError for a mistake in the words."""
    from rlvis.compose.files import session

    require_known(kind, list(INFO), "--info")
    composed, plugins = _composed(words)
    log = logging.getLogger()
    handlers, level = list(log.handlers), log.level
    try:
        with session() as hydra:
            hydra.show_info(kind, "train", [*composed.choices, *plugins])
    finally:  # which sets up the whole process's log for it
        log.handlers, log.level = handlers, level


def _composed(words: Sequence[str]) -> tuple[Composed, list[str]]:
    """What our words compose to, and the words for Hydra itself."""
    from rlvis.compose.command import OURS, compose

    plugins = [word for word in words if word.startswith("hydra") and not word.startswith(OURS)]
    return compose([word for word in words if word not in plugins]), plugins
