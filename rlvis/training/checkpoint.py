"""Checkpoints: everything a run needs to go on bit for bit, in a folder that is either whole or not there.

    RUN/checkpoints/step_000010/{engine/, memory/, ema.safetensors, meta.json, COMPLETE}
    RUN/checkpoints/latest

Written under a temporary name, synced, renamed; `latest` follows last. There is no random state to save:
randomness is a function of (seed, step, ...). DeepSpeed's own files are pickles and are read only from the
run's own folder.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from rlvis.models.ema import Ema
from rlvis.record_base import Record
from rlvis.runtime import dist
from rlvis.runtime.dist import World
from rlvis.runtime.engine import Engine

log = logging.getLogger(__name__)


def save(
    run_dir: Path,
    step: int,
    engine: Engine,
    ema: Ema | None,
    memory: dict[str, Record],
    world: World,
    *,
    keep: int,
) -> Path:
    """Write the state after `step` finished training steps; a collective.

    memory: the small records that live between steps (prior state, reward history). keep: older ones are
    removed.
    """
    root = run_dir / "checkpoints"
    final = root / f"step_{step:06d}"
    partial = root / f".partial_{step:06d}"
    if world.leads:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    engine.save(partial, "engine")
    if world.leads:
        if ema is not None:
            state = ema.state_dict()
            save_file(state["weights"], partial / "ema.safetensors", metadata={"steps": str(state["steps"])})
        for name, record in memory.items():
            record.save(partial / "memory" / name)
        meta = {"step": step, "world_size": world.size, "zero_stage": engine.stage, "ema": ema is not None}
        (partial / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    dist.barrier()
    if world.leads:
        (partial / "COMPLETE").touch()
        _sync(partial)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        _point_latest(root, final.name)
        for old in complete(run_dir)[:-keep] if keep > 0 else []:
            shutil.rmtree(old)
    dist.barrier()
    return final


def complete(run_dir: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    return sorted(p.parent for p in (run_dir / "checkpoints").glob("step_*/COMPLETE"))


def latest(run_dir: Path) -> Path:
    """The newest whole checkpoint.

    Raises:
        ValueError: there is none.
    """
    found = complete(run_dir)
    if not found:
        raise ValueError(f"{run_dir} has no complete checkpoint to resume from; start without resume=")
    return found[-1]


def load(
    folder: Path, engine: Engine, ema: Ema | None, kinds: dict[str, type[Record]], world: World
) -> tuple[int, dict[str, Any]]:
    """Read what `save` wrote into engine and ema; return (finished steps, memory).

    Raises:
        ValueError: the run has another number of processes or ZeRO stage than the checkpoint.
    """
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    have = {"world_size": world.size, "zero_stage": engine.stage, "ema": ema is not None}
    for key, value in have.items():
        if meta[key] != value:
            raise ValueError(
                f"{folder} was written with {key}={meta[key]}, this run has {key}={value}: optimizer shards "
                f"do not fit; resume with {key}={meta[key]}, or start a new run from the exported weights"
            )
    engine.load(folder, "engine")
    if ema is not None:
        with safe_open(folder / "ema.safetensors", framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            ema.load_state_dict({"steps": int(file.metadata()["steps"]), "weights": weights})
    memory = {name: kind.load(folder / "memory" / name) for name, kind in kinds.items()}
    return int(meta["step"]), memory


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _point_latest(root: Path, name: str) -> None:
    aside = root / ".latest"
    aside.write_text(name + "\n", encoding="utf-8")
    aside.rename(root / "latest")
