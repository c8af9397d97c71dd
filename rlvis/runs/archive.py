"""Records of a step on disk, so that every stage can run alone on what another saved.

    DIR/step_000003/prompts, trajectories.0of2, trajectories.1of2, rewards, trust, prior, advantages, ...

Each name is a pair of files, NAME.safetensors and NAME.json. Local records are written one per rank and can
be read by any number of ranks: a reader takes the rows it owns from all pieces.
"""

from __future__ import annotations

import re
from pathlib import Path

from rlvis.record_base import Record
from rlvis.records import Advantages, Trajectories
from rlvis.runtime import dist
from rlvis.runtime.dist import World


def step_folder(root: Path, step: int) -> Path:
    """Folder of one step's records."""
    return root / f"step_{step:06d}"


def steps(root: Path) -> list[int]:
    """Steps that have records below `root`, in order.

    Raises:
        ValueError: the folder does not exist or holds none.
    """
    numbers = sorted(int(p.name[5:]) for p in root.glob("step_*") if re.fullmatch(r"step_\d{6}", p.name))
    if not numbers:
        raise ValueError(
            f"records={root} holds no step_NNNNNN folder; write some with stage=rollout records={root}"
        )
    return numbers


def save_step(
    folder: Path, world: World, *, trajectories: Trajectories, advantages: Advantages, **light: Record
) -> None:
    """Save the records of one step: local ones per rank, global ones once; a collective."""
    save_local(trajectories, folder, "trajectories", world)
    save_advantages(advantages, folder, world)
    if world.is_main:
        for name, record in light.items():
            record.save(folder / name)
    dist.barrier()


def save_local(record: Record, folder: Path, name: str, world: World) -> None:
    """Write this rank's piece of a local record, one for ranks that hold the same rows."""
    if world.holds_first:
        record.save(folder / f"{name}.{world.data_rank}of{world.data_size}")


def save_advantages(advantages: Advantages, folder: Path, world: World) -> None:
    """Write advantages: once where they are all global, this rank's piece where they hold a local map or
    field.

    What an earlier stage=build left of the other kind, or for another number of ranks, is removed first:
    call it on all ranks, with a barrier before anything is read.
    """
    local = _local_rows(advantages) is not None
    ours = rf"advantages\.\d+of{world.data_size}" if local else r"advantages"
    if world.is_main:
        for path in folder.glob("advantages*"):
            if not re.fullmatch(rf"{ours}\.(json|safetensors)", path.name):
                path.unlink()
    if local:
        save_local(advantages, folder, "advantages", world)
    elif world.is_main:
        advantages.save(folder / "advantages")


def load_advantages(folder: Path, world: World, total: int) -> Advantages:
    """The advantages of one step; where they hold a map or field, with this rank's rows of it.

    Args:
        folder: of one step.
        world: decides which of the `total` rows are ours.
        total: P * K.

    Raises:
        FileNotFoundError: there are none.
        ValueError: pieces are missing, or they do not hold just the `total` rows.
    """
    if (folder / "advantages.json").exists() or not list(folder.glob("advantages.*of*.json")):
        return Advantages.load(folder / "advantages")
    whole = Advantages.concatenate(
        [Advantages.load(piece) for piece in _pieces(folder, "advantages", "build")]
    )
    held = _local_rows(whole) or 0
    if held != total:
        raise ValueError(f"{folder}: wanted maps of {total} samples, found {held}; run stage=build again")
    return whole.take(list(world.rows(total)))


def _local_rows(advantages: Advantages) -> int | None:
    """Rows of the map or field; None where all is global."""
    local = advantages.map is not None or advantages.field is not None
    return advantages.rows if local else None


def _pieces(folder: Path, name: str, stage: str) -> list[Path]:
    """The pieces of a local record in the order of their ranks. Raises ValueError unless they are those of
    one run.
    """
    pieces = [p.with_suffix("") for p in folder.glob(f"{name}.*of*.json")]
    place = {piece: tuple(map(int, piece.name.split(".")[1].split("of"))) for piece in pieces}
    pieces.sort(key=lambda piece: place[piece])
    writers = place[pieces[0]][1] if pieces else 0
    if [place[piece] for piece in pieces] != [(rank, writers) for rank in range(writers)] or not pieces:
        raise ValueError(
            f"{folder}: wanted the {name} pieces of all ranks of one {stage}, found "
            f"{', '.join(piece.name for piece in pieces) or 'none'}; "
            f"empty the folder and run stage={stage} again"
        )
    return pieces


def load_trajectories(folder: Path, world: World, total: int, samples_per_prompt: int) -> Trajectories:
    """This rank's rows of the trajectories in `folder`, whatever number of ranks wrote them.

    Args:
        folder: of one step.
        world: decides which of the `total` rows are ours.
        total: P * K.
        samples_per_prompt: K.

    Raises:
        ValueError: pieces are missing or of several rollouts, or they do not hold just the `total` rows.
    """
    whole = Trajectories.concatenate(
        [Trajectories.load(piece) for piece in _pieces(folder, "trajectories", "rollout")]
    )
    held = (whole.prompt * samples_per_prompt + whole.sample).tolist()
    most = int(whole.sample.max()) + 1 if held else 0
    if sorted(held) != list(range(total)) or most > samples_per_prompt:
        raise ValueError(
            f"{folder} holds {len(held)} samples, up to {most} a prompt; wanted {total}, "
            f"{samples_per_prompt} a prompt: "
            "data.prompts_per_step and data.samples_per_prompt must be those of the rollout"
        )
    at = {row: i for i, row in enumerate(held)}
    return whole.take([at[row] for row in world.rows(total)])
