"""Files of scorers from the hub at a commit, or from an address with a pinned content.

What goes wrong there is said in words: what was wanted, why it is not here, what to type.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import urllib.request
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

HUB = re.compile(r"[\w.-]+/[\w.-]+")


def download(address: str, sha256: str) -> Path:
    """The file at an address of the web (https, file), kept in the hub's cache; its content is pinned.

    sha256: 64 hexadecimal digits of the whole file. Raises ValueError when it cannot be had or differs.
    """
    from huggingface_hub.constants import HF_HOME, HF_HUB_OFFLINE

    kept = Path(HF_HOME) / "rlvis" / sha256
    if kept.is_file():
        return kept
    hint = f"fetch {address} where there is network and give the file's path"
    if HF_HUB_OFFLINE:
        raise ValueError(f"{address} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it; {hint}")
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            content = answer.read()
    except OSError as error:
        raise ValueError(f"{address} cannot be fetched: {line(error)}; {hint}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"{address} has changed: its sha256 is {digest}, not {sha256}; if you trust it, give the path of "
            "a copy"
        )
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")  # another rank may write the same file
    part.write_bytes(content)
    part.replace(kept)
    return kept


def local(source: str) -> Path | None:
    """The file or folder called `source`, None for a hub repository; ValueError when it is neither."""
    place = Path(source).expanduser()
    if place.exists():
        return place
    if source.startswith(("/", ".", "~")) or not HUB.fullmatch(source):
        raise ValueError(
            f"{source}: there is no such file or folder, and it is no hub repository (OWNER/NAME)"
        )
    return None


def noted(source: str, place: Path) -> Path:
    """Log which commit of a repository was taken: the cache keeps it in snapshots/COMMIT/..."""
    parts = place.parts
    commit = parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else "?"
    log.info("weights of %s: revision %s", source, commit)
    return place


def failure(source: str, names: Sequence[str], revision: str | None, error: Exception) -> str:
    """What went wrong at the hub with files of these names or patterns, and what to do about it."""
    from huggingface_hub import errors

    at = f"{source} (revision {revision})" if revision else source
    if isinstance(error, errors.GatedRepoError):
        terms = f"https://huggingface.co/{source}"
        return f"{source} is gated: accept its terms at {terms}, then run `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{source}: the hub has no such repository, or you may not see it, and there is no such folder; "
            "check the name, or run `hf auth login` if it is private"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{source} has no revision {revision!r}; give one of its commits, tags or branches"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"{at} has no {' or '.join(names)}; give the repository or folder that holds it"
    command = f"hf download {source}" + (f" --revision {revision}" if revision else "")
    if any("*" in name for name in names):
        command += "".join(f" --include '{name}'" for name in names)
    elif names:
        command += f" {names[-1]}"  # of several the one that is published, the others being converted from it
    return (
        f"{at} is not on this machine and the hub does not answer: {line(error)} -- without network, "
        f"run `{command} --local-dir FOLDER` elsewhere and give the folder"
    )


def line(error: BaseException) -> str:
    """An error's text on one line, at most 240 characters."""
    return " ".join(str(error).split())[:240] or type(error).__name__
