"""`rlvis train -m`: every combination of the values typed, one run each, by a launcher of Hydra's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvis.cli.arguments import process
from rlvis.cli.exit_codes import FAILED, INTERRUPTED, OK, refuse
from rlvis.cli.one_run import checked, one
from rlvis.findings import ConfigError, mistake


def sweep(words: Sequence[str]) -> int:
    """`-m`: check every value, then let Hydra launch one run for each combination."""
    from rlvis.compose.command import OURS, compose
    from rlvis.compose.sweep import axes, check_sweeper, each_value_once, encode, runs
    from rlvis.plan.summary import summary

    plugins = [w for w in words if w.startswith("hydra") and not w.startswith(OURS)]
    overrides = [w for w in words if w not in plugins]
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
    check_sweeper([*plugins, *(w for w in overrides if w.startswith("hydra.searchpath"))], overrides)
    rank, size = process()
    if rank == 0:
        drawn = any(axis.interval for axis in axes(overrides))
        print("sweep of runs that the sweeper draws" if drawn else f"sweep of {len(combinations)} runs")
    if config.dry_run:
        for once in combinations:
            print(f"{' '.join(once)}: {summary(checked(compose(once), size), size)}")
        return OK
    return _launch(encode(overrides), plugins)


def sweep_run(job: Any) -> float | None:
    """One run of a sweep, in whatever process the launcher put it: its reward, for sweepers that look for a
    high one. Raises RuntimeError when it fails, so that Hydra counts it.
    """
    from omegaconf import OmegaConf

    from rlvis.compose.sweep import decode

    run = OmegaConf.to_container(job.run, resolve=False)
    assert isinstance(run, dict), "a sweep's run is a mapping of words"
    overrides = decode({str(name): value for name, value in run.items()})
    print(f"run {' '.join(overrides)}", flush=True)
    ended: list[Path] = []
    try:
        code = one(overrides, ended.append)
    except ConfigError as error:
        code = refuse(error)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise RuntimeError(f"the run {' '.join(overrides)} ended with exit code {code}")
    return final_reward(ended[0]) if ended else None


def final_reward(run_dir: Path) -> float | None:
    """Mean of reward/mean over the last tenth of a run's training steps; None where nothing was scored."""
    from rlvis.observe.lines import steps

    rewards = [row["reward/mean"] for row in steps(run_dir / "metrics.jsonl") if row.get("reward/mean")]
    last = rewards[-max(1, len(rewards) // 10) :]
    return sum(last) / len(last) if last else None


def _launch(encoded: list[str], plugins: list[str]) -> int:
    """Hydra's launcher on the encoded runs of a sweep."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from rlvis.compose.files import CONF

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
