"""One training step inside a run: its records saved where wanted, a broken one dumped for a replay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rlvis.records import StepRecords, Trajectories
from rlvis.runs import archive, step_files
from rlvis.runtime import non_finite
from rlvis.runtime.dist import World
from rlvis.runtime.progress import Progress
from rlvis.training.parts import BrokenStepError, Hooks, Memory, Parts
from rlvis.training.pipeline import train_step


def run_step(
    parts: Parts,
    run_dir: Path,
    memory: Memory,
    step: int,
    progress: Progress,
    watchers: Sequence[Callable[[Trajectories], None]],
) -> tuple[Memory, StepRecords]:
    """Training step `step`, from 0. watchers: see every shard while it holds its media.

    Raises RuntimeError that says how to go on, where the step is broken.
    """

    def watch(piece: Trajectories) -> None:
        for take in watchers:
            take(piece)

    try:
        hooks = Hooks(progress.advance, watch, step_files.keeps_pictures(parts.config, step + 1))
        after, records = train_step(parts, memory, step, hooks)
    except BrokenStepError as error:
        raise RuntimeError(_dump(parts.world, run_dir, step, error)) from error
    if parts.config.train.save_records:
        archive.save_step(
            archive.step_folder(run_dir / "records", step),
            parts.world,
            trajectories=records.trajectories,
            advantages=records.advantages,
            prompts=records.prompts,
            rewards=records.rewards,
            trust=records.trust,
            prior=after.prior,
            history=after.history,
            update=records.update,
        )
    return after, records


def _dump(world: World, run_dir: Path, step: int, error: BrokenStepError) -> str:
    """Write RUN/dump for a broken step; the message that says how to go on."""
    folder = archive.step_folder(run_dir / "dump", step)
    in_rollout = error.trajectories is None or error.advantages is None
    if world.is_main:
        non_finite.write(folder, step + 1, "rollout" if in_rollout else "update", str(error), error.where)
    if error.trajectories is None or error.advantages is None:
        return f"{error}; rlvis autopsy {run_dir} says more"
    archive.save_step(
        folder,
        world,
        trajectories=error.trajectories,
        advantages=error.advantages,
        prompts=error.prompts,
    )
    return (
        f"{error}; its records are in {folder.parent}: replay them with stage=update records={folder.parent}"
    )
