"""Rows of a prompt file or hub data set, one reader a format: where a row stands, its prompt, the rest.

Files are read as they are consumed, so a set of millions never lies in memory twice. A malformed row is an
error that names file and line; columns that are not JSON (pictures, dates) are named and left out.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rlvis.data import json_array

# A row as a reader yields it: where it stands ("file:12"), its prompt (checked later) and its other columns.
Row = tuple[str, Any, dict[str, Any]]
Rows = tuple[Iterator[Row], tuple[str, ...]]  # and the names of the columns that are not JSON

BATCH = 4096  # rows of a hub data set


def txt(path: Path, column: str, keep: Sequence[str] | None) -> Rows:
    """One prompt a line."""
    return ((f"{path}:{number}", line, {}) for number, line in _lines(path)), ()


def jsonl(path: Path, column: str, keep: Sequence[str] | None) -> Rows:
    """One JSON object a line."""

    def rows() -> Iterator[Row]:
        for number, line in _lines(path):
            where = f"{path}:{number}"
            if not line.strip():
                yield where, "", {}
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{where}: not JSON: {error.msg} at column {error.colno}: {line[:60]!r}; every line must "
                    "be one JSON object (for one array of objects type data.source=json)"
                ) from error
            yield _of_object(where, row, column)

    return _kept(rows(), keep, str(path)), ()


def json_rows(path: Path, column: str, keep: Sequence[str] | None) -> Rows:
    """One JSON array of objects, or of strings, which are prompts then; read piece by piece."""

    def rows() -> Iterator[Row]:
        for number, row in enumerate(json_array.elements(path), 1):
            where = f"{path} row {number}"
            yield (where, row, {}) if isinstance(row, str) else _of_object(where, row, column)

    return _kept(rows(), keep, str(path)), ()


def comma_separated(path: Path, column: str, keep: Sequence[str] | None) -> Rows:
    """CSV with a header."""

    def rows() -> Iterator[Row]:
        reader = csv.reader((line + "\n" for _, line in _lines(path)), strict=True)
        try:
            header = next(reader, None)
            if header is None:
                return
            for name in (column, *(keep or ())):
                need_column(f"{path}:1", name, header, "column" if name == column else "keep")
            if len(set(header)) < len(header):
                raise ValueError(
                    f"{path}:1: a column name stands twice in the header {', '.join(header)}; rename one"
                )
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                if cells and len(cells) != len(header):
                    raise ValueError(
                        f"{where}: the row has {len(cells)} cells and the header {len(header)} "
                        f"({', '.join(header)}); put a cell that contains a comma in double quotes "
                        '"..."'
                    )
                row: dict[str, Any] = dict(zip(header, cells, strict=True)) if cells else {column: ""}
                text = row.pop(column)
                yield where, text, row if keep is None else {name: row[name] for name in keep if name in row}
        except csv.Error as error:
            raise ValueError(f"{path}:{reader.line_num}: not CSV: {error}") from error

    return rows(), ()


def parquet(path: Path, column: str, keep: Sequence[str] | None) -> Rows:
    """Parquet, in batches, only the columns that are wanted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file: {error}") from error
    names, left_out = _columns(file.schema_arrow, str(path), column, keep)

    def rows() -> Iterator[Row]:
        number = 0
        for batch in file.iter_batches(columns=names):
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", row.pop(column), row

    return rows(), left_out


def hub(name: str, split: str, revision: str | None, column: str, keep: Sequence[str] | None) -> Rows:
    """A split of what `datasets.load_dataset` takes; no code of the data set is run."""
    import datasets

    where = f"{name}[{split}]"
    try:
        data = datasets.load_dataset(name, split=split, revision=revision)
    except Exception as error:  # the loader raises whatever its network, file system and parsers raise
        raise ValueError(
            f"the hub data set {where} did not load: {type(error).__name__}: {error}; check data.path, "
            "data.split and the network, or download it and type data.source=parquet data.path=FILE"
        ) from error
    names, left_out = _columns(data.features.arrow_schema, where, column, keep)

    def rows() -> Iterator[Row]:
        number = 0
        for batch in data.select_columns(names).with_format("arrow").iter(BATCH):
            for row in batch.to_pylist():
                number += 1
                yield f"{where} row {number}", row.pop(column), row

    return rows(), left_out


FILES: dict[str, Callable[[Path, str, Sequence[str] | None], Rows]] = {
    "txt": txt,
    "jsonl": jsonl,
    "json": json_rows,
    "csv": comma_separated,
    "parquet": parquet,
}


def need_column(where: str, column: str, names: Sequence[str], key: str = "column") -> None:
    """ValueError, with the name that is nearest, when there is no such column. key: the option that asks."""
    if column not in names:
        near = difflib.get_close_matches(column, names, 1)
        value = near[0] if near else "NAME"
        raise ValueError(
            f"{where}: there is no column {column!r}, only {', '.join(names) or 'none at all'}; type "
            f"data.{key}={f'[{value}]' if key == 'keep' else value}"
        )


def _columns(
    schema: Any, where: str, column: str, keep: Sequence[str] | None
) -> tuple[list[str], tuple[str, ...]]:
    """Columns to read of an Arrow schema, the prompt's among them, and those left out for their type."""
    names = schema.names
    need_column(where, column, names)
    for name in keep or ():
        need_column(where, name, names, "keep")
    wanted = [n for n in names if keep is None or n in keep or n == column]
    plain = [n for n in wanted if n == column or _plain(schema.field(n).type)]
    return plain, tuple(n for n in wanted if n not in plain)


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


def _kept(rows: Iterator[Row], keep: Sequence[str] | None, source: str) -> Iterator[Row]:
    """Rows of objects, which need not all have the same keys, with the columns in `keep` alone."""
    if keep is None:
        yield from rows
        return
    unseen, others = set(keep), set[str]()
    for where, text, extra in rows:
        unseen -= extra.keys()
        if unseen:
            others |= extra.keys()
        yield where, text, {name: extra[name] for name in keep if name in extra}
    for name in sorted(unseen):
        need_column(source, name, sorted(others), "keep")


def _of_object(where: str, row: Any, column: str) -> Row:
    if not isinstance(row, dict):
        raise ValueError(
            f'{where}: wanted a JSON object such as {{"{column}": "..."}}, got {type(row).__name__} '
            f"{json.dumps(row)[:60]!r}"
        )
    if column not in row:
        need_column(where, column, list(row))
    return where, row.pop(column), row


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
