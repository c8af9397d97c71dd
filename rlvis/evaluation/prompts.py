"""Which prompts an evaluation takes, and the noise that each of their samples starts from.

Prompts are spread evenly over the kinds of the shapes world, and evenly inside a kind. A sample's noise is
keyed by a hash of the prompt's text and metadata and by the sample's number, so it stays when the number of
prompts, their order or the run's seed changes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlvis.data import sampler
from rlvis.data.prompts import load_prompts
from rlvis.data.world import language
from rlvis.models.policy import Policy
from rlvis.records import PromptBatch
from rlvis.reward import scorer
from rlvis.reward.contract import Term
from rlvis.schema import SHAPES, WORLD, Config, DataConfig, EvalConfig

log = logging.getLogger(__name__)

OTHER = ""  # the kind of prompts that no suite sorts


@dataclass(frozen=True)
class HeldOut:
    """What an evaluation needs beside the policy: P prompts with their kinds, and scorers.

    batch: index is the position in the held-out prompts. embeds are empty until `encode`. reworded: the same
    prompts in other words, those without any as they are, with whether they have some; None where nobody
    asks.
    """

    settings: EvalConfig
    batch: PromptBatch
    kinds: tuple[str, ...]
    terms: list[Term]
    source: str
    reworded: tuple[PromptBatch, tuple[bool, ...]] | None = None


def prepare(config: Config) -> HeldOut:
    """Read the held-out prompts of a configuration and build its extra scorers; no weights of the policy.

    Raises ValueError on whatever prompts or scorers have to complain about, and where nothing is measured.
    """
    settings = config.eval
    if not settings.measures:
        raise ValueError(
            f"eval.suite={settings.suite} and eval.terms is empty, so nothing would be measured; type "
            "eval=shapes for the shapes world, or name a scorer: eval.terms.NAME.scorer=SCORER"
        )
    terms = [scorer.one(name, term, f"eval.terms.{name}") for name, term in settings.terms.items()]
    model = settings.model(config.model)
    prompts = load_prompts(data_of(config), (model.height, model.width))
    pairs = zip(prompts.texts, prompts.metadata, strict=True)
    kinds = [kind_of(settings, text, metadata) for text, metadata in pairs]
    if settings.by is not None and not any(kinds):
        known = sorted({name for metadata in prompts.metadata for name in metadata})
        raise ValueError(
            f"eval.by={settings.by}: no prompt of {prompts.source} has such a field; it has "
            f"{', '.join(known) or 'none'}; type eval.by=null, or one of these"
        )
    positions = spread(kinds, settings.prompts)
    batch = sampler.select(prompts, positions)
    held = HeldOut(settings, batch, tuple(kinds[i] for i in positions), terms, prompts.source)
    return replace(held, reworded=_reworded(settings, batch))


def _reworded(settings: EvalConfig, batch: PromptBatch) -> tuple[PromptBatch, tuple[bool, ...]] | None:
    """Raises ValueError where no prompt has other words."""
    field = settings.paraphrase
    if field is None:
        return None
    if field == WORLD:
        other = [language.paraphrase(text) for text in batch.texts]
    else:
        other = [metadata.get(field) for metadata in batch.metadata]
    has = tuple(isinstance(text, str) and bool(text.strip()) for text in other)
    if not any(has):
        raise ValueError(
            f"eval.paraphrase={field}: none of the {batch.rows} held-out prompts has such a field with text; "
            "type eval.paraphrase=null, or name the column that holds each prompt in other words"
        )
    pairs = zip(other, batch.texts, has, strict=True)
    return batch.replace(texts=tuple(str(new) if known else old for new, old, known in pairs)), has


def data_of(config: Config) -> DataConfig:
    """The run's data section with what `eval` puts in its place. A file named by eval.path is read whole:
    no filter of the training data, no held-out part of it.
    """
    settings = config.eval
    data = replace(config.data, split=settings.split, kinds=settings.kinds)
    other = {name: getattr(settings, name) for name in ("source", "column", "quoted")}
    data = replace(data, **{name: value for name, value in other.items() if value is not None})
    if settings.source is not None and settings.source != config.data.source:
        data = replace(data, path=None, keep=None, heldout=0.0)  # what the training's file has
    if settings.path is not None:
        whole = settings.path.startswith("asset:") or not Path(settings.path).expanduser().is_dir()
        data = replace(data, path=settings.path, split="train" if whole else settings.split, heldout=0.0)
        data = replace(data, min_words=0, max_words=None, min_ascii=0.0, drop=None)
    return data


def encode(held: HeldOut, policy: Policy) -> HeldOut:
    """The same with text conditions (and those of condition frames) for `policy` as it is evaluated."""
    policy = policy.at(held.settings.model(policy.config))
    if held.reworded is not None:
        batch, has = held.reworded
        held = replace(held, reworded=(_encoded(batch, policy), has))
    return replace(held, batch=_encoded(held.batch, policy))


def _encoded(batch: PromptBatch, policy: Policy) -> PromptBatch:
    embeds, truncated = policy.encode(batch.texts, batch.frames)
    if truncated:
        log.warning(
            "%d of %d held-out prompts are longer than the text encoders take: their ends are ignored",
            truncated,
            batch.rows,
        )
    return batch.replace(embeds=embeds)


def kind_of(settings: EvalConfig, text: str, metadata: Mapping[str, Any]) -> str:
    """The kind of a prompt: what its metadata say (eval.by), or what the shapes world calls it."""
    if settings.by is not None:
        return str(metadata.get(settings.by, OTHER))
    return language.parse(text).kind if settings.suite == SHAPES else OTHER


def spread(kinds: Sequence[str], count: int | None) -> list[int]:
    """Positions of `count` prompts (None: all), as evenly over kinds as they allow, evenly spaced in each.

    A kind with fewer prompts than its share gives all, and the others share what is left; what does not
    divide goes to the largest kinds. Raises ValueError when there are fewer prompts than `count`.

    >>> spread(["a", "a", "a", "a", "b"], 3)
    [0, 2, 4]
    """
    if count is None:
        return list(range(len(kinds)))
    if count > len(kinds):
        raise ValueError(
            f"eval.prompts={count}, but there are {len(kinds)} held-out prompts; type "
            f"eval.prompts={len(kinds)}, or eval.prompts=null for all; eval.samples=N draws each N times"
        )
    inside: dict[str, list[int]] = {}
    for position, kind in enumerate(kinds):
        inside.setdefault(kind, []).append(position)
    taken: list[int] = []
    # The smallest kinds first, so that what they lack is known when the others share.
    order = sorted(inside, key=lambda kind: len(inside[kind]))
    left = count
    for number, kind in enumerate(order):
        share = min(left // (len(order) - number), len(inside[kind]))
        taken += [inside[kind][i * len(inside[kind]) // share] for i in range(share)]
        left -= share
    return sorted(taken)


def noise_key(text: str, metadata: dict[str, Any], sample: int) -> int:
    """A number in 0 .. 2**63 - 1 that names the noise of one sample of a prompt."""
    name = json.dumps([text, metadata, sample], sort_keys=True)
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
