"""The instructions that released judges were trained with, read from their publishers' source files.

A judge of this kind reads a page of text around the prompt, and another wording or white space is another
judge. Unusual: that page does not lie in this package. It is fetched once, pinned by the hash of its text,
and taken out of the source file as a constant; no code of that file is run.
"""

from __future__ import annotations

import ast
import hashlib
import logging
import os
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvis.reward.hub import line

log = logging.getLogger(__name__)

PLACE = "{text_prompt}"  # where the prompt is put


@dataclass(frozen=True, slots=True)
class Source:
    """Constants `names` of the Python file at `address`, one after the other; sha256 is of their text."""

    address: str
    names: tuple[str, ...]
    sha256: str


def template(given: str | None, source: Source, tokens: Sequence[str], who: str) -> str:
    """The text with {text_prompt} in it, from the file `given` (Python with the constants, or plain text), or
    from the publisher's (None). A text that is not the publisher's is used, and that is logged.

    Raises ValueError when it cannot be had, or has not {text_prompt} and each of `tokens` exactly once.
    """
    if given is None:
        text = _fetched(source, who)
    else:
        path = Path(given).expanduser()
        try:
            content = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{who}: template={given} cannot be read: {line(error)}") from error
        text = constants(content, source.names, given) if path.suffix == ".py" else content
        if _hash(text) != source.sha256:
            log.warning("%s: template=%s is not the text that the released weights know", who, given)
    for part in (PLACE, *tokens):
        if text.count(part) != 1:
            raise ValueError(
                f"{who}: the template has {part} {text.count(part)} times, wanted once; take the constants "
                f"{' and '.join(source.names)} of {source.address}"
            )
    return text


def constants(code: str, names: Sequence[str], where: str) -> str:
    """The text constants `names` of Python code, joined; nothing is run. Raises ValueError without them."""
    try:
        body = ast.parse(code).body
    except SyntaxError as error:
        raise ValueError(f"{where} is not Python: {line(error)}") from error
    texts = {
        target.id: node.value.value
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }
    missing = [name for name in names if name not in texts]
    if missing:
        raise ValueError(f"{where} has no text constant {missing[0]}")
    return "".join(texts[name] for name in names)


def _fetched(source: Source, who: str) -> str:
    """The publisher's text, kept beside the hub's cache. ValueError when it cannot be had or differs."""
    from huggingface_hub.constants import HF_HOME, HF_HUB_OFFLINE

    kept = Path(HF_HOME) / "rlvis" / source.sha256
    if kept.is_file():
        return kept.read_text(encoding="utf-8")
    hint = f"fetch {source.address} where there is network and give template=FILE"
    if HF_HUB_OFFLINE:
        raise ValueError(f"{who}: its instruction is not on this machine and HF_HUB_OFFLINE is set; {hint}")
    try:
        with urllib.request.urlopen(source.address, timeout=60) as answer:
            content = answer.read().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{who}: its instruction cannot be fetched: {line(error)}; {hint}") from error
    text = constants(content, source.names, source.address)
    if _hash(text) != source.sha256:
        raise ValueError(
            f"{who}: {source.address} has changed; if you trust it, give a copy as template=FILE"
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")  # another rank may write the same file
    part.write_text(text, encoding="utf-8")
    part.replace(kept)
    return text


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
