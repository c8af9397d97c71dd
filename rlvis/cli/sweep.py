"""`rlvis train -m`: every combination of the values typed, one run each, by a launcher of Hydra's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rlvis.cli.arguments import process
from rlvis.cli.exit_codes import FAILED, INTERRUPTED, OK, refuse
from rlvis.cli.one_run import checked, one
from rlvis.findings import ConfigError, mistake


def sweep(words: Sequence[str]) -> int:
    """`-m`: check every value, then let Hydra launch one run for each combination."""
    from rlvis.compose.command import compose
    from rlvis.compose.sweep import check_sweeper, each_value_once, encode, runs
    from rlvis.plan.summary import summary

    plugins = [w for w in words if w.startswith("hydra") and not w.startswith("hydra.searchpath")]
    overrides = [w for w in words if w not in plugins]
    search = [w for w in overrides if w.startswith("hydra.searchpath")]
    combinations = runs(overrides)
    for once in each_value_once(overrides):
        config = checked(compose(once))
        if config.resume is not None:
            raise ConfigError(
                f"resume={config.resume} goes on with one run; leave it out of a sweep, or go on without -m"
            )
    if config.run_dir is not None and len(combinations) > 1:
        raise ConfigError(
            mistake(
                f"run_dir={config.run_dir}: {len(combinations)} runs cannot share a folder",
                "name=NAME instead",
            )
        )
    check_sweeper([*plugins, *search])
    rank, size = process()
    if rank == 0:
        print(f"sweep of {len(combinations)} runs")
    if config.dry_run:
        for once in combinations:
            print(f"{' '.join(once)}: {summary(checked(compose(once), size), size)}")
        return OK
    return _launch(encode(overrides), plugins)


def sweep_run(job: Any) -> None:
    """One run of a sweep, in whatever process the launcher put it. Raises RuntimeError when it fails, so that
    Hydra counts it.
    """
    from omegaconf import OmegaConf

    words = OmegaConf.to_container(job.run, resolve=False)
    assert isinstance(words, dict), "a sweep's run is a mapping of words"
    overrides = [str(word) for word in words.values()]
    print(f"run {' '.join(overrides)}", flush=True)
    try:
        code = one(overrides)
    except ConfigError as error:
        code = refuse(error)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise RuntimeError(f"the run {' '.join(overrides)} ended with exit code {code}")


def _launch(encoded: list[str], plugins: list[str]) -> int:
    """Hydra's launcher on the encoded runs of a sweep."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from rlvis.compose.command import CONF

    before = sys.argv
    sys.argv = ["rlvis", "--multirun", *encoded, *plugins]
    GlobalHydra.instance().clear()
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="sweep")(sweep_run)()
    except SystemExit as stop:
        return FAILED if stop.code else OK
    finally:
        sys.argv = before
        GlobalHydra.instance().clear()
    return OK
