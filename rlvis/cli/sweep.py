"""`rlvis train -m`: every combination of the values typed, one run each, by a launcher of Hydra's, and at the
end a page that compares them.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rlvis.cli.arguments import process
from rlvis.cli.exit_codes import FAILED, INTERRUPTED, OK, refuse
from rlvis.cli.one_run import checked, one
from rlvis.findings import ConfigError, mistake

log = logging.getLogger(__name__)

SWEEPS = Path("outputs", "sweeps")


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
    return _launch(encode(overrides), plugins, rank)


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
    if ended and "list" in run:
        _note(Path(str(run["list"])), ended[0])
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


def _note(listing: Path, run_dir: Path) -> None:
    """Add a run to the list of a sweep, seen from the list; several launched processes may write at once."""
    with listing.open("a", encoding="utf-8") as file:
        file.write(os.path.relpath(run_dir, listing.parent) + "\n")


def _launch(encoded: list[str], plugins: list[str], rank: int) -> int:
    """Hydra's launcher on the encoded runs of a sweep, and the page that compares them, however it ends."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.types import Quote, QuotedString

    from rlvis.cli.report import FOLDERS
    from rlvis.compose.files import CONF

    before, own = sys.argv, []
    folder = SWEEPS / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if not any(word.startswith("hydra.sweep.dir=") for word in plugins):
        own.append(f"hydra.sweep.dir={folder}")
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        listing = QuotedString(str((folder / FOLDERS).resolve()), Quote.single).with_quotes()
        own.append(f"+run.list={listing}")
    sys.argv = ["rlvis", "--multirun", *encoded, *own, *plugins]
    GlobalHydra.instance().clear()
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="sweep")(sweep_run)()
    except SystemExit as stop:
        return FAILED if stop.code else OK
    finally:
        sys.argv = before
        GlobalHydra.instance().clear()
        if rank == 0:
            _compare(folder)
    return OK


def _compare(folder: Path) -> None:
    """The page of the sweep; when it fails, that is worth a word, but not the runs."""
    from rlvis.cli.report import of_sweep

    try:
        if page := of_sweep(folder):
            print(page)
    except Exception:
        log.exception("the runs are done, but their comparison is not; rlvis report %s tries again", folder)
