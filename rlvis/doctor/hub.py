"""What must come from the hub and is not on this machine yet: asked for before anything heavy loads.

A repository whose small index file lies in the cache is taken for cached. Nothing is downloaded here: one
request a repository for the head of that file, with a short time limit; HF_HUB_OFFLINE is respected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvis.advantage.maps import backbone, choice
from rlvis.doctor.diagnosis import failure, ok
from rlvis.findings import Finding
from rlvis.models.source import ASSET
from rlvis.reward.facts import facts
from rlvis.schema import Config, Executor, MapSource, RewardTerm

SECONDS = 5.0  # for one answer of the hub


@dataclass(frozen=True)
class Wanted:
    """A repository: the key that names it, its id, the file that is asked for, the revision."""

    key: str
    repository: str
    file: str
    revision: str | None = None


def wanted(config: Config) -> list[Wanted]:
    """The repositories of the hub that a configuration reads models from."""
    return [one for one in _named(config) if not _local(one.repository)]


def _named(config: Config) -> Iterator[Wanted]:
    yield Wanted("model.path", config.model.path, "model_index.json", config.model.revision)
    if config.advantage.map.source is not MapSource.none:
        yield Wanted(*backbone.wanted(choice.chosen(config)))
    # With servers nothing of the reward is loaded here.
    if config.reward.executor is not Executor.http:
        yield from judges(config.reward.terms, "reward")
    yield from judges(config.eval.terms, "eval")


def judges(terms: Mapping[str, RewardTerm], where: str) -> Iterator[Wanted]:
    """The repositories that scorers load, those on this machine among them; where: whose terms."""
    for name, term in terms.items():
        for one in facts(term.scorer, term.kwargs).repositories:
            key = f"{where}.terms.{name}.kwargs.{one.kwarg}"
            yield Wanted(key, one.name, one.file, one.revision)


def _local(path: str) -> bool:
    return (
        path.startswith((ASSET, "local-dir:", "/", ".", "~")) or Path(path).is_dir() or path.count("/") != 1
    )


def hub(config: Config) -> list[Finding]:
    """Whether every repository that is not in the cache can be had."""
    names = wanted(config)
    if not names:
        return [ok("hub", "nothing comes from the hub", {"repositories": 0})]
    missing = [one for one in names if not _cached(one)]
    if failures := _unreachable(missing):
        return failures
    what = f"{len(names)} repositories, {len(names) - len(missing)} in the cache"
    what += "" if not missing else f", {', '.join(one.repository for one in missing)} to be had"
    return [ok("hub", what, {"repositories": len(names), "cached": len(names) - len(missing)})]


def unreachable(names: Iterable[Wanted]) -> list[Finding]:
    """What stands between us and those of the repositories that are not on this machine."""
    return _unreachable([one for one in names if not _local(one.repository) and not _cached(one)])


def _unreachable(missing: Sequence[Wanted]) -> list[Finding]:
    return [finding for one in missing if (finding := _ask(one)) is not None]


def _cached(one: Wanted) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(one.repository, one.file, revision=one.revision), str)


def _ask(one: Wanted) -> Finding | None:
    """What stands between us and a repository; None when it answers."""
    from huggingface_hub import constants, get_hf_file_metadata, get_token, hf_hub_url
    from huggingface_hub import errors as E

    local = f"{one.key}=FOLDER with a copy (run `hf download {one.repository}` where there is network)"
    if constants.HF_HUB_OFFLINE:
        why = "HF_HUB_OFFLINE is set, so it cannot be fetched"
        return _missing(one, "it is not in the cache", why, f"{local}, or unset HF_HUB_OFFLINE")
    token = get_token()
    signed = "your token has no access to it" if token else "no token is set on this machine"
    try:
        get_hf_file_metadata(
            hf_hub_url(one.repository, one.file, revision=one.revision), timeout=SECONDS, token=token
        )
    except E.GatedRepoError:
        page = f"https://huggingface.co/{one.repository}"
        kind = f"hf auth login, after accepting the terms on {page}"
        return _missing(one, "it is gated", f"its owner asks for an agreement first, and {signed}", kind)
    except (E.RepositoryNotFoundError, E.RevisionNotFoundError, E.EntryNotFoundError) as error:
        what = f"has no {one.file}, or is not there"
        if isinstance(error, E.RevisionNotFoundError):
            what = f"has no revision {one.revision}"
        why = f"the hub knows no such thing, or it is private and {signed}"
        return _missing(one, what, why, f"{one.key}=OWNER/NAME with the right name, or hf auth login")
    except Exception as error:  # whatever a network does: each library in between has errors of its own
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        return _missing(one, f"the hub does not answer ({reason})", "it is not in the cache either", local)
    return None


def _missing(one: Wanted, what: str, why: str, kind: str) -> Finding:
    sentence = f"{one.key}={one.repository}: {what}"
    return failure("hub", sentence, {"repository": one.repository}, why=why, type=kind)
