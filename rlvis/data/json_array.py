"""One JSON array in a file, element by element: published sets of prompts are arrays of several 100 MB."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

CHUNK = 2**20  # characters read at a time
LONGEST = 2**26  # characters of one element, beyond which it is taken for a mistake

_SPACE: Any = re.compile(r"[ \t\r\n]*")  # matches everywhere, so never None


def elements(path: Path) -> Iterator[Any]:
    """The elements of the JSON array that the file holds; none of an empty file.

    Raises ValueError, with the row, where it is not JSON, not UTF-8 or no array.
    """
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8-sig") as file:
        text, count, place = " ", 0, 1
        while text and place == len(text):
            text = _more(file, path)
            place = _SPACE.match(text).end()
        if not text:
            return
        if text[place] != "[":
            raise ValueError(
                f"{path}: not a JSON array but {text[place:][:40]!r}; for one object a line type "
                "data.source=jsonl"
            )
        place += 1
        while True:
            start = place
            place = _SPACE.match(text, place).end()
            mark = text[place : place + 1]
            if mark == "]":
                return
            if count and mark not in ("", ","):
                raise ValueError(f"{path} row {count + 1}: not JSON: no comma before {text[place:][:40]!r}")
            if count and mark:
                place = _SPACE.match(text, place + 1).end()
            try:
                element, place = decoder.raw_decode(text, place)
            except json.JSONDecodeError as error:
                fresh = _more(file, path) if len(text) - start < LONGEST else ""
                if not fresh:
                    raise ValueError(
                        f"{path} row {count + 1}: not JSON: {error.msg}: {text[place:][:60]!r}"
                    ) from error
                text, place = text[start:] + fresh, 0
                continue
            count += 1
            yield element


def _more(file: TextIO, path: Path) -> str:
    try:
        return file.read(CHUNK)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 (byte 0x{error.object[error.start]:02x}); save the file as UTF-8, for "
            f"example: iconv -f latin1 -t utf-8 {path.name} > new{path.suffix}"
        ) from error
