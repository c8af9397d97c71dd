"""What a checkpoint holds and how it gets back: engine (weights, optimizer), average, memory, configuration.

There is no random state to save: randomness is a function of (seed, step, ...), and so is the position among
the prompts. A save copies everything to CPU memory and returns; `writer` does the rest.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file

from rlvis.checkpoints import files
from rlvis.checkpoints.writer import Job, Writer
from rlvis.models.ema import Ema
from rlvis.record_base import Record
from rlvis.runs import manifest
from rlvis.runtime import dist, snapshot
from rlvis.runtime.dist import World
from rlvis.runtime.engine import Engine

ENGINE, EMA, MEMORY = "engine", "ema.safetensors", "memory"


class Saver:
    """Saves a run's state; a context, whose end waits for the write in flight.

    failed: whether the last write that was waited for failed.
    """

    def __init__(self, run_dir: Path, engine: Engine, ema: Ema | None, world: World, *, keep: int) -> None:
        self.run_dir, self.engine, self.ema, self.world = run_dir, engine, ema, world
        self.writer = Writer(run_dir, world, keep)
        self.failed = False
        # As the run began with them: what is edited later must not look as if it had been trained with.
        self._settings = _bytes(run_dir / files.CONFIG)
        self._news: dict[str, float] = {}
        self._origin: dict[str, Any] | None = None

    def save(self, step: int, memory: Mapping[str, Record]) -> None:
        """Take a snapshot of the state after `step` finished training steps, and write it in the background;
        a collective that waits for the write before.

        memory: the small records that live between steps (prior state, reward history).

        Raises:
            RuntimeError: the run folder itself is gone; on every rank.
        """
        start = time.perf_counter()
        self.settle()
        if fault := self.writer.prepare(step):
            self.failed = True
            if not dist.broadcast_object(self._is_there()):
                raise RuntimeError(f"{missing_folder(self.run_dir)} ({fault})")
        else:
            self.writer.begin(Job(step, self._parts(memory), self._meta(step)))
        self._news["time/checkpoint"] = time.perf_counter() - start

    def settle(self) -> bool:
        """Wait until what was saved is on the disk; whether it is, on every rank. A collective."""
        job = self.writer.settle()
        if job is not None:
            self.failed = job.error is not None
            self._news["checkpoint/write_seconds"] = job.seconds
        return not self.failed

    def require_folder(self) -> None:
        """Raise RuntimeError, on the leading rank, when the run folder was removed or moved."""
        if self.world.is_main and not self._is_there():
            raise RuntimeError(missing_folder(self.run_dir))

    def _is_there(self) -> bool:
        return (self.run_dir / files.CONFIG).is_file()

    def news(self) -> dict[str, float]:
        """Metrics of what happened since the last call."""
        news, self._news = self._news, {}
        return news

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.close()

    def _parts(self, memory: Mapping[str, Record]) -> Any:
        """Copies of everything this rank has to write, and the function that writes them; a collective."""
        engine = self.engine.snapshot(ENGINE)
        if not self.world.is_main:
            return lambda folder: snapshot.write(engine, folder)
        average = None if self.ema is None else snapshot.copied(self.ema.state_dict())
        kept = snapshot.copied(dict(memory))
        config = self.run_dir / files.CONFIG
        settings = self._settings

        def write(folder: Path) -> list[str]:
            names = snapshot.write(engine, folder)
            if average is not None:
                save_file(average["weights"], folder / EMA, metadata={"steps": str(average["steps"])})
                names.append(EMA)
            for name, record in kept.items():
                record.save(folder / MEMORY / name)
                names += [f"{MEMORY}/{name}.safetensors", f"{MEMORY}/{name}.json"]
            (folder / files.CONFIG).write_bytes(config.read_bytes() if settings is None else settings)
            return [*names, files.CONFIG]

        return write

    def _meta(self, step: int) -> Any:
        def collect() -> dict[str, Any]:
            if self._origin is None:
                versions = manifest.versions()
                names = ("rlvis", "torch", "deepspeed")
                self._origin = {"git": manifest.git(), "versions": {n: versions.get(n) for n in names}}
            return {
                "step": step,
                "world_size": self.world.size,
                "zero_stage": self.engine.stage,
                "ema": self.ema is not None,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                **self._origin,
            }

        return collect


@dataclass(frozen=True)
class Loaded:
    """What `load` read beside weights: finished training steps, and memory by name."""

    step: int
    memory: dict[str, Any]


def load(
    folder: Path, engine: Engine, ema: Ema | None, kinds: Mapping[str, type[Record]], world: World
) -> Loaded:
    """Read a checkpoint, whole as `files.damage` says, into engine and ema.

    Raises:
        ValueError: the run has another number of processes or ZeRO stage than the checkpoint, or an average
            where it has none.
    """
    meta = files.meta(folder)
    have = {"world_size": world.size, "zero_stage": engine.stage, "ema": ema is not None}
    for key, value in have.items():
        if meta[key] != value:
            raise ValueError(
                f"{folder} was written with {key}={meta[key]}, this run has {key}={value}: its state does "
                f"not fit, and resume_allow cannot help; resume with {key}={meta[key]}, or start a new run "
                f"from the exported weights (rlvis checkpoint export {folder} to=DIR)"
            )
    engine.load(folder, ENGINE)
    if ema is not None:
        steps, weights = average_of(folder)
        ema.load_state_dict({"steps": steps, "weights": weights})
    memory = {name: kind.load(folder / MEMORY / name) for name, kind in kinds.items()}
    return Loaded(int(meta["step"]), memory)


def average_of(folder: Path) -> tuple[int, dict[str, Any]]:
    """(optimizer steps seen, name -> weight) of the average in a checkpoint."""
    with safe_open(folder / EMA, framework="pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return int(file.metadata()["steps"]), weights


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def missing_folder(run_dir: Path) -> str:
    """The message for a run folder that was removed or moved under the run."""
    return (
        f"the run folder {run_dir} is gone: it was removed or moved while the run wrote into it, so nothing "
        "more can be saved; put it back and resume, or start a new run"
    )
