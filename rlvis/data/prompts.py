"""Prompts and their metadata from files, the hub, pairs with pictures, or the shapes world.

A malformed row is an error that names file and line, never a prompt less; what is left out on purpose (empty
rows, duplicates, what filters and the held-out split take) is counted and logged. Rows keep their order, so a
prompt's position names it for good.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rlvis.data import pairs, readers, selection, shapes
from rlvis.data.readers import Row, Rows
from rlvis.data.selection import Selection, Tally
from rlvis.findings import Finding, mistake
from rlvis.schema import DataConfig

log = logging.getLogger(__name__)

SOURCES = (*shapes.SOURCES, *readers.FILES, "hub", pairs.SOURCE)
ASSETS = Path(__file__).resolve().parents[1] / "assets" / "prompts"


@dataclass(frozen=True, slots=True)
class PromptSet:
    """All prompts of a data set in file order; position i is the prompt's index, the key of its randomness.

    metadata: the other columns of each row, JSON values. left_out: names of columns whose values are not JSON
    (images, dates). tally: which rows were left out, and why. frames: makes the condition frames uint8
    [P,3,Y,X] of the prompts at some positions, for those that a step takes; None where prompts bring none.
    """

    texts: tuple[str, ...]
    metadata: tuple[dict[str, Any], ...]
    source: str
    left_out: tuple[str, ...] = ()
    tally: Tally = field(default_factory=Tally)
    frames: Callable[[Sequence[int]], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def empty(self) -> int:
        """Rows without text, which were left out."""
        return self.tally.empty

    @property
    def duplicates(self) -> int:
        """Rows that were equal to one before, which were left out."""
        return self.tally.duplicates


def load_prompts(config: DataConfig, size: tuple[int, int] | None = None) -> PromptSet:
    """Read the data set that `config` names.

    path is a file, or a folder that holds SPLIT.EXTENSION (train.txt, test.jsonl, ...), or `asset:NAME` for a
    file that comes with rlvis; for source=hub it is what `datasets.load_dataset` takes (no remote code is
    run), for source=i2v_pairs a folder of pairs or a file with a column of pictures. Prompts are stripped of
    outer white space. A duplicate is a row whose prompt (normalised) and metadata both occurred before: the
    same text with other metadata is another task. With data.heldout, the splits train and heldout are two
    sides of one data set.

    Args:
        size: height and width of condition frames, in pixels; source=i2v_pairs needs it.

    Raises:
        ValueError: the source, file, encoding, a row or a column is wrong, or no prompt is left.
    """
    _check_options(config)
    source, (rows, left_out), base = _open(config)
    prompts = _collect(rows, source, left_out, config)
    if base is not None:
        assert size is not None, "pairs need the size of the frames"
        prompts = replace(prompts, frames=pairs.loader(base, prompts.metadata, config.image, size))
    elif config.source == shapes.IMAGE_TO_VIDEO:
        prompts = replace(prompts, frames=shapes.loader(prompts.texts, size or shapes.FRAME))
    log.info("data: %s", describe(prompts))
    return prompts


def describe(prompts: PromptSet) -> str:
    """One line: how many prompts, from where, and what was left out."""
    notes = prompts.tally.notes()
    if prompts.left_out:
        notes.append(f"columns that are not JSON: {', '.join(prompts.left_out)}")
    return f"{len(prompts)} prompts from {prompts.source}" + (
        f" (left out: {'; '.join(notes)})" if notes else ""
    )


def _open(config: DataConfig) -> tuple[str, Rows, Path | None]:
    """What is read, in words; its rows; and for pairs the folder of the pictures."""
    # Both sides of the split stand in what split=train names.
    split = selection.TRAIN if selection.part(config) else config.split
    if config.source in shapes.SOURCES:
        return f"{config.source}/{config.split}", (_shapes(config), ()), None
    assert config.path is not None
    if config.source == "hub":
        rows = readers.hub(config.path, split, config.revision, config.column, config.keep)
        return f"{config.path}[{split}]", rows, None
    path = _place(config, split)
    if config.source == pairs.SOURCE:
        return str(path), *pairs.rows(config, path)
    return str(path), readers.FILES[config.source](path, config.column, config.keep), None


def _check_options(config: DataConfig) -> None:
    if config.source not in SOURCES:
        near = difflib.get_close_matches(config.source, SOURCES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"data.source={config.source!r}: wanted one of {', '.join(SOURCES)}{hint}")
    for error in (*option_errors(config), *selection.errors(config)):
        raise ValueError(str(error))


def option_errors(config: DataConfig) -> Iterator[Finding]:
    """What a source needs and has not got, or has got and does not read."""
    source, world = config.source, config.source in shapes.SOURCES
    which = f"data.source={source}"
    if world and config.path is not None:
        yield mistake(
            f"data.path={config.path} does nothing with {which}, which needs no file",
            "data=txt (or jsonl, csv, ...), or data.path=null",
        )
    if not world and not config.path:
        what, name = ("a hub data set", "OWNER/NAME") if source == "hub" else ("a file or folder", "FILE")
        yield mistake(f"data.path is not set, and {which} needs {what}", f"data.path={name}")
    if not world and config.kinds is not None:
        yield mistake(
            f"data.kinds=[{','.join(config.kinds)}] does nothing with {which}, whose prompts have no kinds",
            "data.kinds=null",
        )
    if world and config.heldout:
        yield mistake(
            f"data.heldout={config.heldout} does nothing with {which}, which has a held-out split of its own",
            "data.heldout=0",
        )
    fresh = DataConfig()
    unread = {
        "column": world or source == "txt",
        "keep": world or source == "txt",
        "image": source != pairs.SOURCE,
        "revision": source != "hub",
    }
    for key, idle in unread.items():
        value, usual = getattr(config, key), getattr(fresh, key)
        if idle and value != usual:
            why = {"image": "brings no pictures", "revision": "is no hub data set"}.get(key, "has no columns")
            yield mistake(
                f"data.{key}={value} does nothing with {which}, which {why}",
                f"data.{key}={'null' if usual is None else usual}",
            )


def _place(config: DataConfig, split: str) -> Path:
    """The file to read, or for pairs perhaps a folder."""
    assert config.path is not None
    if config.path.startswith("asset:"):
        path = ASSETS / config.path.removeprefix("asset:")
        known = sorted(p.name for p in ASSETS.glob("*.*"))
        if path.name not in known or path.parent != ASSETS:
            raise ValueError(
                f"data.path={config.path}: no such prompt file in rlvis; it has {', '.join(known)}"
            )
    else:
        path = Path(config.path).expanduser()
    if path.is_dir():
        return _inner(config, path, split)
    if not path.is_file():
        raise ValueError(
            f"data.path={config.path}: there is no such file (looked at {path.resolve()}); type "
            "data.path=FILE"
        )
    if split != selection.TRAIN:
        extension = path.suffix[1:] if config.source == pairs.SOURCE else config.source
        raise ValueError(
            f"data.split={split}, but data.path={config.path} is one file and is read whole; point data.path "
            f"at the folder that holds {split}.{extension}, or at the file you want with data.split=train; "
            "data.heldout=0.02 makes a split heldout of every fiftieth prompt"
        )
    return path


def _inner(config: DataConfig, folder: Path, split: str) -> Path:
    """What a folder holds of a split: a file, or for pairs a folder inside it or the folder itself."""
    if config.source == pairs.SOURCE:
        inner = folder / split
        if inner.is_dir() or split == selection.TRAIN:
            return inner if inner.is_dir() else folder
    else:
        inner = folder / f"{split}.{config.source}"
        file = folder / f"{selection.HELD_OUT}.{config.source}"
        if selection.part(config) and file.is_file():
            raise ValueError(
                f"data.heldout={config.heldout}, but {folder} holds {file.name}, a split heldout of its own; "
                "type data.heldout=0"
            )
        if inner.is_file():
            return inner
    there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    raise ValueError(
        f"data.path={folder} is a folder, so data.split={split} is read from {inner.name}, "
        f"which is not in it (it holds {there}); name a file in data.path or type data.split=..."
    )


def _collect(rows: Iterator[Row], source: str, left_out: tuple[str, ...], config: DataConfig) -> PromptSet:
    texts: list[str] = []
    metadata: list[dict[str, Any]] = []
    chosen = Selection(config)
    for where, text, extra in rows:
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{where}: the prompt is not text but {type(text).__name__} {str(text)[:60]!r}")
        text = (text or "").strip()
        if config.quoted is not None:
            if config.quoted in extra:
                raise ValueError(
                    f"{where}: data.quoted={config.quoted}, but there is a column of this name; type "
                    "data.quoted=null to take the column"
                )
            extra = extra | {config.quoted: selection.quoted(text)}
        if chosen.take(text, extra):
            texts.append(text)
            metadata.append(extra)
    if not texts:
        why = "it is empty"
        if chosen.tally.rows:
            notes = "; ".join(chosen.tally.notes())
            only = chosen.tally.empty == chosen.tally.rows
            why = f"all of its {chosen.tally.rows} rows are " + ("empty" if only else f"left out ({notes})")
        raise ValueError(f"{source} has no prompt: {why}; it needs at least one row with text")
    return PromptSet(tuple(texts), tuple(metadata), source, left_out, chosen.tally)


def _shapes(config: DataConfig) -> Iterator[Row]:
    for text, extra in shapes.prompts(config.source, config.split, config.kinds):
        yield config.source, text, extra
