"""Prompts and their metadata from a text file, JSON lines, CSV, Parquet, a hub data set or the shapes world.

A malformed line is an error that names file and line, never a prompt less; what is left out on purpose (empty
lines, exact duplicates, columns that are not JSON) is counted and logged. Rows keep their order, so a
prompt's position names it for good.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rlvis.data import shapes
from rlvis.schema import DataConfig

log = logging.getLogger(__name__)

SOURCES = (*shapes.SOURCES, "txt", "jsonl", "csv", "parquet", "hub")
ASSETS = Path(__file__).resolve().parents[1] / "assets" / "prompts"

# A row as a reader yields it: where it stands ("file:12"), its prompt (checked later) and its other columns.
Row = tuple[str, Any, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class PromptSet:
    """All prompts of a data set in file order; position i is the prompt's index, the key of its randomness.

    metadata: the other columns of each row, JSON values. empty, duplicates: rows skipped. left_out: names of
    columns whose values are not JSON (images, dates). frames: makes the condition frames uint8 [P,3,Y,X] of
    some texts, for those that a step takes; None where prompts bring none.
    """

    texts: tuple[str, ...]
    metadata: tuple[dict[str, Any], ...]
    source: str
    empty: int = 0
    duplicates: int = 0
    left_out: tuple[str, ...] = ()
    frames: Callable[[Sequence[str]], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.texts)


def load_prompts(config: DataConfig) -> PromptSet:
    """Read the data set that `config` names.

    path is a file, or a folder that holds SPLIT.EXTENSION (train.txt, test.jsonl, ...), or `asset:NAME` for a
    file that comes with rlvis; for source=hub it is what `datasets.load_dataset` takes (no remote code is
    run). Prompts are stripped of outer white space. A duplicate is a row whose prompt and metadata both
    occurred before: the same text with other metadata is another task. Raises ValueError when the source,
    file, encoding, a row or the column is wrong, or no prompt is left.
    """
    _check_options(config)
    left_out: tuple[str, ...] = ()
    frames = shapes.first_frames if config.source == shapes.IMAGE_TO_VIDEO else None
    if config.source in shapes.SOURCES:
        source, rows = f"{config.source}/{config.split}", _shapes(config)
    elif config.source == "hub":
        source = f"{config.path}[{config.split}]"
        rows, left_out = _hub(config)
    else:
        path = _file(config)
        source = str(path)
        if config.source == "parquet":
            rows, left_out = _parquet(path, config.column)
        else:
            rows = {"txt": _txt, "jsonl": _jsonl, "csv": _csv}[config.source](path, config.column)
    result = dataclasses.replace(_collect(rows, source, left_out), frames=frames)
    log.info("data: %s", describe(result))
    return result


def describe(prompts: PromptSet) -> str:
    """One line: how many prompts, from where, and what was left out."""
    notes = []
    if prompts.empty:
        notes.append(f"{prompts.empty} empty rows")
    if prompts.duplicates:
        notes.append(f"{prompts.duplicates} duplicates")
    if prompts.left_out:
        notes.append(f"columns that are not JSON: {', '.join(prompts.left_out)}")
    return f"{len(prompts)} prompts from {prompts.source}" + (
        f" (left out: {'; '.join(notes)})" if notes else ""
    )


def _check_options(config: DataConfig) -> None:
    if config.source not in SOURCES:
        near = difflib.get_close_matches(config.source, SOURCES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"data.source={config.source!r}: wanted one of {', '.join(SOURCES)}{hint}")
    if config.source in shapes.SOURCES and config.path is not None:
        raise ValueError(
            f"data.path={config.path} has no meaning with data.source={config.source}, which needs no file; "
            "type data.path=null, or choose another data.source"
        )
    if config.source not in shapes.SOURCES and config.kinds is not None:
        raise ValueError(
            f"data.kinds={list(config.kinds)} has no meaning with data.source={config.source}, whose prompts "
            "have no kinds; type data.kinds=null"
        )
    if config.source in (*shapes.SOURCES, "txt") and config.column != "prompt":
        raise ValueError(
            f"data.column={config.column} has no meaning with data.source={config.source}, which has "
            "no columns; type data.column=prompt, or choose data.source=jsonl, csv, parquet or hub"
        )
    if config.source not in shapes.SOURCES and not config.path:
        what = "a hub data set such as OWNER/NAME" if config.source == "hub" else "a file or folder"
        raise ValueError(
            f"data.path is not set, and data.source={config.source} needs {what}: type data.path=..."
        )


def _file(config: DataConfig) -> Path:
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
        inner = path / f"{config.split}.{config.source}"
        if not inner.is_file():
            there = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
            raise ValueError(
                f"data.path={path} is a folder, so data.split={config.split} is read from {inner.name}, "
                f"which is not in it (it holds {there}); name a file in data.path or type data.split=..."
            )
        return inner
    if not path.is_file():
        raise ValueError(
            f"data.path={config.path}: there is no such file (looked at {path.resolve()}); type "
            "data.path=FILE"
        )
    if config.split != "train":
        raise ValueError(
            f"data.split={config.split}, but data.path={config.path} is one file and is read whole; point "
            f"data.path at the folder that holds {config.split}.{config.source}, or at the file you want "
            "with data.split=train"
        )
    return path


def _collect(rows: Iterator[Row], source: str, left_out: tuple[str, ...]) -> PromptSet:
    texts: list[str] = []
    metadata: list[dict[str, Any]] = []
    seen: set[str] = set()
    total = empty = 0
    for where, text, extra in rows:
        total += 1
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{where}: the prompt is not text but {type(text).__name__} {str(text)[:60]!r}")
        text = (text or "").strip()
        if not text:
            empty += 1
            continue
        key = json.dumps([text, extra], sort_keys=True)
        if key in seen:
            continue
        seen.add(key)
        texts.append(text)
        metadata.append(extra)
    if not texts:
        why = f"all of its {total} rows are empty" if total else "it is empty"
        raise ValueError(f"{source} has no prompt: {why}; it needs at least one row with text")
    return PromptSet(tuple(texts), tuple(metadata), source, empty, total - empty - len(texts), left_out)


def _shapes(config: DataConfig) -> Iterator[Row]:
    for text, extra in shapes.prompts(config.source, config.split, config.kinds):
        yield config.source, text, extra


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line. Only \\n and \\r\\n end a line; Unicode has others, inside prompts."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                yield number, raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}:{number}: not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start}); "
                    f"save the file as UTF-8, for example: iconv -f latin1 -t utf-8 {path.name} > "
                    f"new{path.suffix}"
                ) from error


def _txt(path: Path, column: str) -> Iterator[Row]:
    for number, line in _lines(path):
        yield f"{path}:{number}", line, {}


def _jsonl(path: Path, column: str) -> Iterator[Row]:
    for number, line in _lines(path):
        where = f"{path}:{number}"
        if not line.strip():
            yield where, "", {}
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{where}: not JSON: {error.msg} at column {error.colno}: {line[:60]!r}; every line must be "
                "one JSON object"
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f'{where}: wanted a JSON object such as {{"{column}": "..."}}, got {type(row).__name__} '
                f"{line[:60]!r}"
            )
        _need_column(where, column, list(row))
        yield where, row.pop(column), row


def _csv(path: Path, column: str) -> Iterator[Row]:
    reader = csv.reader((line + "\n" for _, line in _lines(path)), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            return
        _need_column(f"{path}:1", column, header)
        if len(set(header)) < len(header):
            raise ValueError(
                f"{path}:1: a column name stands twice in the header {', '.join(header)}; rename one"
            )
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            if cells and len(cells) != len(header):
                raise ValueError(
                    f"{where}: the row has {len(cells)} cells and the header {len(header)} "
                    f"({', '.join(header)}); "
                    'put a cell that contains a comma in double quotes "..."'
                )
            row: dict[str, Any] = dict(zip(header, cells, strict=True)) if cells else {column: ""}
            yield where, row.pop(column), row
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: not CSV: {error}") from error


def _parquet(path: Path, column: str) -> tuple[Iterator[Row], tuple[str, ...]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file: {error}") from error
    names = file.schema_arrow.names
    _need_column(str(path), column, names)
    kept = [n for n in names if n == column or _plain(file.schema_arrow.field(n).type)]

    def rows() -> Iterator[Row]:
        number = 0
        for batch in file.iter_batches(columns=kept):
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", row.pop(column), row

    return rows(), tuple(n for n in names if n not in kept)


def _hub(config: DataConfig) -> tuple[Iterator[Row], tuple[str, ...]]:
    import datasets

    where = f"{config.path}[{config.split}]"
    try:
        data = datasets.load_dataset(config.path, split=config.split)
    except Exception as error:  # the loader raises whatever its network, file system and parsers raise
        raise ValueError(
            f"the hub data set {where} did not load: {type(error).__name__}: {error}; check data.path, "
            "data.split and the network, or download it and type data.source=parquet data.path=FILE"
        ) from error
    _need_column(where, config.column, data.column_names)
    schema = data.features.arrow_schema
    kept = [n for n in data.column_names if n == config.column or _plain(schema.field(n).type)]

    def rows() -> Iterator[Row]:
        for number, row in enumerate(data.select_columns(kept).with_format(None), 1):
            row = dict(row)
            yield f"{where} row {number}", row.pop(config.column), row

    return rows(), tuple(n for n in data.column_names if n not in kept)


def _plain(kind: Any) -> bool:
    """Whether every value of this Arrow type is a JSON value; pictures are structs of bytes."""
    import pyarrow as pa

    t = pa.types
    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind) or t.is_dictionary(kind):
        return _plain(kind.value_type)
    if t.is_struct(kind):
        return all(_plain(kind.field(i).type) for i in range(kind.num_fields))
    checks = (t.is_null, t.is_boolean, t.is_integer, t.is_floating, t.is_string, t.is_large_string)
    return any(check(kind) for check in checks)


def _need_column(where: str, column: str, names: list[str]) -> None:
    if column not in names:
        near = difflib.get_close_matches(column, names, 1)
        hint = f"; type data.column={near[0] if near else 'NAME'}"
        raise ValueError(
            f"{where}: there is no column {column!r}, only {', '.join(names) or 'none at all'}{hint}"
        )
