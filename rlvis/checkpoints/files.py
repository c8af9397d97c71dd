"""Checkpoint folders on disk: what is whole, what is damaged and how, which is the newest, which may go.

    RUN/checkpoints/latest
    RUN/checkpoints/step_000010/{engine/, memory/, ema.safetensors, config.yaml}
    RUN/checkpoints/step_000010/{meta.json, SUMS.json, COMPLETE}

SUMS.json has the size and SHA-256 of every file, COMPLETE the SHA-256 of SUMS.json, so any flipped bit shows.
`latest` is for people: what is read is decided by the folders. Nothing here imports torch, and nothing
writes; `disk` does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlvis.findings import ConfigError

log = logging.getLogger(__name__)

FORMAT = 1
META, SUMS, COMPLETE, LATEST, CONFIG = "meta.json", "SUMS.json", "COMPLETE", "latest", "config.yaml"
RENAMED = "the folder was renamed"
NAMED = re.compile(r"step_\d+")
_known: dict[Path, tuple[Any, list[str]]] = {}  # folder -> what its files looked like, and its damage


def root(run_dir: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run_dir / "checkpoints"


def name(step: int) -> str:
    """The folder of a step."""
    return f"step_{step:06d}"


def folders(run_dir: Path) -> list[Path]:
    """Every checkpoint folder of a run, whole or not, oldest first."""
    steps = [p for p in root(run_dir).glob("step_*") if NAMED.fullmatch(p.name) and p.is_dir()]
    return sorted(steps, key=step_of)


def step_of(folder: Path) -> int:
    """Training steps done, by the folder's name."""
    return int(folder.name.removeprefix("step_"))


def damage(folder: Path, *, sums: bool = True) -> list[str]:
    """What is wrong with a checkpoint, "FILE: what" each; empty when it is whole.

    sums: read every byte. Without it, names and sizes are compared, which finds whatever is missing or cut
    off, in no time. What was read is remembered while the files stay as they are.
    """
    try:
        listed = _listing(folder)
    except ValueError as error:
        return [str(error)]
    if not sums:
        return [fault for file, entry in listed.items() if (fault := _misfit_fault(folder, file, entry))]
    stamps = [_stamp(folder / file) for file in (COMPLETE, SUMS, *listed)]
    known = _known.get(folder.resolve())
    if known is None or known[0] != stamps:
        known = (
            stamps,
            [fault for file, entry in listed.items() if (fault := _altered_fault(folder, file, entry))],
        )
        _known[folder.resolve()] = known
    return list(known[1])


def whole(run_dir: Path, *, sums: bool = False) -> list[Path]:
    """Checkpoints that are whole, by names and sizes unless `sums`, oldest first."""
    return [folder for folder in folders(run_dir) if not damage(folder, sums=sums)]


def choose(run_dir: Path) -> Path:
    """The newest checkpoint whose every byte is as it was written; a newer damaged one is named in the log.

    Raises ConfigError that names each one, with what is wrong, when there is none, and where a newer one
    bears another step's name.
    """
    folder, bad = search(run_dir)
    if renamed := [(other, *faults) for other, faults in bad.items() if RENAMED in faults[0]]:
        raise ConfigError(
            f"{root(run_dir) / renamed[0][0]}: {renamed[0][1]}; give it its own name back, or move it away"
        )
    if folder is not None:
        for other, faults in bad.items():
            log.warning(
                "checkpoint %s is damaged (%s); %s is the newest whole one and is used instead",
                *(root(run_dir) / other, shorten(faults), folder.name),
            )
        return folder
    if not bad:
        raise ConfigError(
            f"{run_dir} has no whole checkpoint to go on from; start anew without resume=, with "
            "train.save_every=N"
        )
    listing = "; ".join(f"{other}: {shorten(faults)}" for other, faults in bad.items())
    raise ConfigError(
        f"{run_dir} has no whole checkpoint: {listing}. Restore one from a copy (rlvis checkpoint verify "
        f"{run_dir} checks it), or start anew without resume="
    )


def search(run_dir: Path) -> tuple[Path | None, dict[str, list[str]]]:
    """The newest whole checkpoint, every byte read, and the damage of newer ones by name, newest first."""
    bad: dict[str, list[str]] = {}
    for folder in reversed(folders(run_dir)):
        faults = damage(folder)
        if not faults:
            return folder, bad
        bad[folder.name] = faults
    return None, bad


def meta(folder: Path) -> dict[str, Any]:
    """meta.json of a checkpoint. Raises ValueError when it cannot be read or is of a later format."""
    content = _json(folder, META)
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{META}: format {content.get('format')}, but this rlvis reads {FORMAT}: another version wrote it"
        )
    return content


def sums(folder: Path) -> dict[str, dict[str, Any]]:
    """File -> {"bytes", "sha256"} as SUMS.json lists them. Raises ValueError when it cannot be read."""
    listed = _json(folder, SUMS).get("files")
    if not isinstance(listed, dict) or not all(
        isinstance(e, dict) and {"bytes", "sha256"} <= e.keys() for e in listed.values()
    ):
        raise ValueError(f"{SUMS}: lists no files")
    return listed


def is_unaltered(folder: Path, file: str) -> bool:
    """Whether a checkpoint has this file, as SUMS.json lists it."""
    entry = sums(folder).get(file)
    return entry is not None and _altered_fault(folder, file, entry) is None


def seal_of(listing: bytes) -> bytes:
    """What COMPLETE holds for the bytes of SUMS.json."""
    return f"{hashlib.sha256(listing).hexdigest()}\n".encode()


def outdated(run_dir: Path, keep: int, *, sums: bool = False) -> list[Path]:
    """What keeping the newest `keep` whole checkpoints would remove: everything older; sums: see `damage`."""
    kept = whole(run_dir, sums=sums)[-keep:]
    return [folder for folder in folders(run_dir) if kept and step_of(folder) < step_of(kept[0])]


def _listing(folder: Path) -> dict[str, dict[str, Any]]:
    """The files that SUMS.json lists, when it is the one that COMPLETE names and meta.json can be read."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    try:
        sealed = (folder / COMPLETE).read_bytes()
    except OSError:
        raise ValueError(f"{COMPLETE}: missing, so it was never finished, or taken apart") from None
    listed = sums(folder)
    if sealed != seal_of((folder / SUMS).read_bytes()):
        raise ValueError(f"{SUMS}: not the file whose sum {COMPLETE} holds; one of the two was changed")
    step = meta(folder).get("step")
    if NAMED.fullmatch(folder.name) and step != step_of(folder):
        raise ValueError(
            f"{META}: {RENAMED} from step {step}, which it says, to step {step_of(folder)}, as it is called"
        )
    return listed


def _json(folder: Path, file: str) -> dict[str, Any]:
    try:
        value = json.loads((folder / file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{file}: missing") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{file}: holds no JSON object")
    return value


def _misfit_fault(folder: Path, file: str, entry: dict[str, Any]) -> str | None:
    try:
        size = (folder / file).stat().st_size
    except OSError:
        return f"{file}: missing"
    return None if size == entry["bytes"] else f"{file}: {size} bytes, wanted {entry['bytes']}"


def _altered_fault(folder: Path, file: str, entry: dict[str, Any]) -> str | None:
    if fault := _misfit_fault(folder, file, entry):
        return fault
    try:
        with (folder / file).open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        return f"{file}: cannot be read ({error.strerror or error})"
    if digest == entry["sha256"]:
        return None
    return f"{file}: SHA-256 {digest[:12]}..., wanted {str(entry['sha256'])[:12]}...: its content was changed"


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def shorten(items: Iterable[str], most: int = 3) -> str:
    """The first few of many, as one text."""
    items = list(items)
    rest = f", and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest
