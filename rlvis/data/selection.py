"""Which prompts of a data set stay: filters, duplicates, and the held-out part.

A prompt is on one side of the split by a hash of its normalised text alone, so that sides never share a
prompt, whatever the order, the seed, or what the data set grows by. Everything left out is counted.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rlvis.findings import Finding, mistake
from rlvis.schema import DataConfig

TRAIN, HELD_OUT = "train", "heldout"

_QUOTED = re.compile('"([^"]*)"|\u201c([^\u201d]*)\u201d')
_ENDS = " .,;:!?"  # a final full stop makes no other prompt


def normalised(text: str) -> str:
    """The text without what makes no other prompt of it: Unicode forms (NFKC), case, runs of white space, and
    punctuation at its end.

    >>> normalised("A  red\\tfox.") == normalised("a red fox")
    True
    """
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(plain.casefold().split()).rstrip(_ENDS) or text


def content_hash(text: str) -> int:
    """A number in 0 .. 2**64 - 1, the same on every machine."""
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )


def quoted(text: str) -> str | None:
    """What stands in the first double quotation marks, straight or curly; None without any, or in empty ones.

    >>> quoted('a sign that says "OPEN"')
    'OPEN'
    """
    match = _QUOTED.search(text)
    return None if match is None else (match[1] or match[2] or "").strip() or None


def ascii_share(text: str) -> float:
    """Share of ASCII among the characters of a text: 1 for English, near 0 for Chinese or Russian."""
    return 1.0 if text.isascii() else sum(c.isascii() for c in text) / len(text)


def part(config: DataConfig) -> str | None:
    """Which side of the split is wanted; None for both, where there is no split."""
    return config.split if config.heldout > 0 and config.split in (TRAIN, HELD_OUT) else None


@dataclass
class Tally:
    """What was left out of `rows` rows: without text, equal to a row before (near: but for case, spaces or
    final punctuation), by an option (its name and value), or on the other side of the split.
    """

    rows: int = 0
    empty: int = 0
    duplicates: int = 0
    near: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    apart: int = 0

    def notes(self) -> list[str]:
        """What was left out, in words; nothing for what did not occur."""
        counts = [
            (self.empty, "empty rows"),
            (self.duplicates, "duplicates"),
            (self.near, "equal to another but for case, spaces or final punctuation"),
            *((count, f"by data.{option}") for option, count in self.dropped.items()),
            (self.apart, "on the other side of data.heldout"),
        ]
        return [f"{count} {what}" for count, what in counts if count]


class Selection:
    """The rules of one data section; `take` says whether a row stays and counts it if it does not."""

    def __init__(self, config: DataConfig) -> None:
        """Raises ValueError for a pattern that is not a regular expression."""
        self.config, self.tally = config, Tally()
        self.part = part(config)
        self.line = int(config.heldout * 2**64)
        self.drop = None if config.drop is None else pattern(config.drop)
        self.hashes: dict[int, int] = {}

    def take(self, text: str, extra: dict[str, Any]) -> bool:
        """Whether the stripped prompt with its metadata stays; the first of several equal ones does."""
        self.tally.rows += 1
        if not text:
            self.tally.empty += 1
            return False
        option = self.refused(text)
        if option is not None:
            self.tally.dropped[option] = self.tally.dropped.get(option, 0) + 1
            return False
        number = content_hash(normalised(text))
        key = content_hash(f"{number} {json.dumps(extra, sort_keys=True)}") if extra else number
        content = content_hash(text)
        if key in self.hashes:
            same = self.hashes[key] == content
            self.tally.duplicates += same
            self.tally.near += not same
            return False
        self.hashes[key] = content
        if self.part is not None and (number < self.line) is not (self.part == HELD_OUT):
            self.tally.apart += 1
            return False
        return True

    def refused(self, text: str) -> str | None:
        """The option, with its value, that leaves the prompt out; None if it stays."""
        config = self.config
        if config.min_words or config.max_words is not None:
            words = len(text.split())
            if words < config.min_words:
                return f"min_words={config.min_words}"
            if config.max_words is not None and words > config.max_words:
                return f"max_words={config.max_words}"
        if config.min_ascii and ascii_share(text) < config.min_ascii:
            return f"min_ascii={config.min_ascii:g}"
        if self.drop is not None and self.drop.search(text):
            return f"drop={config.drop}"
        if config.quoted is not None and quoted(text) is None:
            return f"quoted={config.quoted}"
        return None


def pattern(text: str) -> re.Pattern[str]:
    """The regular expression of data.drop, for either case; ValueError, with the place, when it is none."""
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as error:
        raise ValueError(
            f"data.drop={text!r} is not a regular expression: {error}; type 'data.drop=WORD|WORD', or "
            "data.drop=null"
        ) from error


def errors(config: DataConfig) -> Iterator[Finding]:
    """What is wrong with numbers beside each other, and patterns; single values are the schema's business."""
    if config.max_words is not None and config.max_words < config.min_words:
        yield mistake(
            f"data.max_words={config.max_words}: wanted at least data.min_words={config.min_words}",
            "data.max_words=null for no limit",
        )
    if config.quoted == "":
        yield mistake(
            "data.quoted is empty, and names a metadata field", "data.quoted=target, or data.quoted=null"
        )
    if config.drop is not None:
        try:
            pattern(config.drop)
        except ValueError as error:
            yield mistake(str(error))
