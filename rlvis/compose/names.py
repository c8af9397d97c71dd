"""The names and types of the schema as a user types them: every dotted key, the nearest one to a typo, what a
key wants.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rlvis import schema
from rlvis.schema.key import Key, key_of

WHOLE = ("experiment", "debug")  # groups whose files may set any key
OPEN = ("reward.terms", "eval.terms")  # sections whose keys are names of the user's
PLAIN = ("optim", "train", "sentinels")  # sections without options
# Keys whose proper name cannot be a field's: a reserved word of Python. The command line takes both.
PYTHON_WORDS = {"trust.crt.lambda": "trust.crt.lam"}
# What other programs call our keys: a typo has a near spelling, a habit has not.
ELSEWHERE = {
    "learning_rate": "optim.lr",
    "max_grad_norm": "optim.grad_norm",
    "batch_size": "train.micro_batch",
    "train_batch_size": "train.micro_batch",
    "max_steps": "train.steps",
    "num_generations": "data.samples_per_prompt",
    "num_image_per_prompt": "data.samples_per_prompt",
    "group_size": "data.samples_per_prompt",
    "guidance_scale": "model.cfg",
    "resolution": "model.height",
    "num_inference_steps": "sampler.steps",
    "num_steps": "sampler.steps",
    "noise_level": "sampler.eta",
    "sde_window_size": "sampler.window.size",
    "same_latent": "sampler.share_noise",
    "init_same_noise": "sampler.share_noise",
    "beta": "advantage.kl_beta",
    "global_std": "advantage.std_scope",
    "zero_stage": "engine.stage",
    "output_dir": "run_dir",
    "resume_from_checkpoint": "resume",
}


class Entry(NamedTuple):
    """A key: its dotted name, its type without `| None`, its mark, and the dataclass field that holds it."""

    key: str
    kind: Any
    mark: Key
    field: dataclasses.Field[Any]


def entries(kind: Any = schema.Config, prefix: str = "") -> Iterator[Entry]:
    """Every key of a section, also below those that are null; NAME is any name of an open mapping."""
    hints = typing.get_type_hints(kind, include_extras=True) if dataclasses.is_dataclass(kind) else {}
    for field in dataclasses.fields(kind) if hints else ():
        key, inner = prefix + field.name, fields(kind)[field.name]
        yield Entry(key, inner, key_of(hints[field.name])[1] or Key(""), field)
        yield from entries(inner, f"{key}.")
        if typing.get_origin(inner) is dict:
            yield from entries(child(inner, "NAME"), f"{key}.NAME.")


@functools.cache
def fields(kind: Any) -> dict[str, Any]:
    """Field name -> type of a dataclass, without `| None`; empty for anything else."""
    if not dataclasses.is_dataclass(kind):
        return {}
    hints = typing.get_type_hints(kind)
    return {field.name: required(hints[field.name]) for field in dataclasses.fields(kind)}


def required(kind: Any) -> Any:
    """X of `X | None`, anything else as it is."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        inner = [arm for arm in typing.get_args(kind) if arm is not type(None)]
        return inner[0] if len(inner) == 1 else kind
    return kind


def is_section(kind: Any) -> bool:
    """Whether a key of this type holds further keys."""
    return dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict


def child(kind: Any, key: str) -> Any:
    """Type of the dotted `key` inside a section of this type; None where a closed section has no such key.

    Open mappings (dict[str, X]) have every key: names of reward terms, keyword arguments.
    """
    for name in key.split("."):
        if typing.get_origin(kind) is dict:
            kind = required(typing.get_args(kind)[1])
        elif kind is not Any:
            kind = fields(kind).get(name)
    return kind


def choices() -> tuple[str, ...]:
    """What takes an option, in the order of the schema: sections, and what may set any key."""
    sections = (name for name, kind in fields(schema.Config).items() if dataclasses.is_dataclass(kind))
    return (*(name for name in sections if name not in PLAIN), *WHOLE)


def keys(named: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """Every dotted key of the schema; named: the names that exist in open mappings, such as {"reward.terms":
    ["coverage"]}.
    """
    plain = [entry.key for entry in entries() if ".NAME." not in entry.key]
    for mapping, names in (named or {}).items():
        inside = [entry.key for entry in entries(child(child(schema.Config, mapping), "NAME"), ".")]
        plain += [f"{mapping}.{name}{key}" for name in names for key in ("", *inside)]
    return plain


def nearest(key: str, known: Sequence[str]) -> list[str]:
    """One to three known keys that `key` may have meant, best first: same last word, or written alike."""
    section, _, last = key.rpartition(".")
    word = {k: k.rsplit(".", 1)[-1] for k in known}
    inside = [k for k in known if k.rpartition(".")[0] == section]
    if section and (best := difflib.get_close_matches(last, [word[k] for k in inside], 1, 0.6)):
        return [f"{section}.{best[0]}"]
    if last in ELSEWHERE:
        return [ELSEWHERE[last]]
    if same := [k for k in known if word[k] == last]:
        return same[:3]
    alike = difflib.get_close_matches(key, known, 3, 0.6)
    near_words = difflib.get_close_matches(last, sorted(set(word.values())), 2, 0.7)
    candidates = dict.fromkeys([*alike, *(k for k in known if word[k] in near_words)])
    ranked = sorted(candidates, key=lambda k: difflib.SequenceMatcher(None, key, k).ratio(), reverse=True)
    return ranked[:3] or difflib.get_close_matches(key, known, 1, 0.0)


def wanted(kind: Any) -> str:
    """What a key of this type takes, in words: "a whole number", "one of sde, cps, ddim, ode"."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return f"one of {', '.join(kind.__members__)}"
    if typing.get_origin(kind) is list:
        return f"a list such as [A,B], each {wanted(typing.get_args(kind)[0])}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(kind, "a value")
