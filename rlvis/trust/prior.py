"""What a prior is: it says what a group's mean reward is compared with, and remembers what it has seen.

The modules of rlvis/trust/priors are ours; one of the user's own is a subclass of `Prior`, named by its
dotted path. An object lives for one step: what it learns goes through `memory`, which is in every checkpoint,
and what it keeps in itself is gone, so a resumed run cannot differ from one that was never stopped. A step's
anchors come from the memory before it, and the memory is extended once, after: neither the order of prompts
nor their placement on ranks can matter, bit for bit.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rlvis.findings import ConfigError, mistake
from rlvis.named import Folder, bind
from rlvis.records import PromptBatch
from rlvis.schema import PriorConfig
from rlvis.trust.groups import Groups
from rlvis.trust.scale import KEY

Memory = dict[str, Tensor]
Elsewhere = Literal["reference", "first_frame"] | None

CONTRACT = """\
class MyPrior(rlvis.trust.prior.Prior):
    def step(self, groups, memory, prompts, reference):
        # groups: values [P, K, Q], valid [P, K], count [P, 1], mean and var [P, Q], all raw; unit [Q]
        # memory: dict of tensors; multiply floors by the unit, or they depend on the reward's own
        return Anchor(mean, var, count), memory  # [P, Q] each, float64, finite; count 0: nothing known yet"""
PRIORS = Folder("prior.kind", "rlvis.trust.priors", CONTRACT)
STEP = ("self", "groups", "memory", "prompts", "reference")


@dataclass(frozen=True, slots=True)
class Anchor:
    """What the groups of a step are compared with: mean and var [P, Q], and count [P, Q] of samples or groups
    that the mean rests on (0: nothing yet, and the weight of the group is 1). float64.
    """

    mean: Tensor
    var: Tensor
    count: Tensor


class Prior:
    """Base of priors. The arguments of the constructor come from prior.kwargs; one of ours takes those that
    are named as a key of the section `prior` from there.

    looks_up: whose scores `step` gets as `reference`: prior.samples samples of the policy before training, or
    the condition frame of each prompt; None: nobody's. has_variance: whether its `var` means anything.
    """

    looks_up: Elsewhere = None
    has_variance: bool = True

    def step(
        self, groups: Groups, memory: Mapping[str, Tensor], prompts: PromptBatch, reference: Groups | None
    ) -> tuple[Anchor | None, Memory]:
        """What the groups of this step are compared with (None: with nothing), and the memory after it.

        memory: float64 tensors by name, as the last step returned them; empty at first, and not to be written
        into. reference: groups of the same prompts, where `looks_up` asks for them and `unknown` names any.
        """
        raise NotImplementedError

    def unknown(self, memory: Mapping[str, Tensor], prompts: PromptBatch) -> list[int]:
        """Positions of the prompts that `step` needs `reference` for."""
        return list(range(prompts.rows)) if self.looks_up else []


def prior_of(config: PriorConfig) -> Prior:
    """The prior of a configuration. Raises ConfigError: there is none of that name, it is no prior, or its
    keys do not fit it.
    """
    kind = config.kind
    found = PRIORS.find(kind)
    keys = {name: getattr(config, name) for name in _fields_read(found, kind)}
    if kind not in PRIORS.names():
        if not (inspect.isclass(found) and issubclass(found, Prior)):
            raise PRIORS.misfit(kind, "it is no subclass of rlvis.trust.prior.Prior")
        if found.step is Prior.step:
            raise PRIORS.misfit(kind, "it has no `step`")
        bind(found.step, STEP, {}, f"prior.kind={kind}: its step", contract=CONTRACT)
    for name in sorted(keys.keys() & config.kwargs.keys()):
        value = config.kwargs[name]
        raise ConfigError(
            mistake(
                f"prior.kwargs.{name}={value} with prior.kind={kind}, which has a key for that",
                f"prior.{name}={value}",
            )
        )
    given = {**keys, **config.kwargs}
    bind(found, (), given, f"prior.kwargs: {kind}", key="prior.kwargs", contract=CONTRACT)
    prior: Prior = found(**given)
    return prior


def keys_of(prior: Prior, kind: str) -> set[str]:
    """The keys of the section `prior` that are read with this prior, called `kind`."""
    looked_up = ("samples", "cache") if prior.looks_up == "reference" else ()
    return {"kind", "kwargs", *_fields_read(type(prior), kind), *looked_up}


def anchored(
    prior: Prior,
    kind: str,
    groups: Groups,
    memory: Mapping[str, Tensor],
    prompts: PromptBatch,
    reference: Groups | None,
) -> tuple[Anchor | None, Memory]:
    """One step of a prior, what it returns checked; what is passed in is unchanged.

    Raises ConfigError where it returns something else, and ValueError for values that are missing.
    """
    past = {name: value for name, value in memory.items() if name != KEY}  # of trust.scale, not a prior's
    if kind not in PRIORS.names():  # which may write into it, and the doctor's probe takes steps as well
        past = {name: value.clone() for name, value in past.items()}
    result: Any = prior.step(groups, past, prompts, reference)
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Anchor | None)):
        raise PRIORS.misfit(kind, f"its step returns {_told(result)}")
    anchor, after = result
    if wrong := _wrong_memory(after) or (anchor is not None and _wrong_anchor(anchor, groups)):
        raise PRIORS.misfit(kind, f"its step returns {wrong}")
    return anchor, after


def prompt_key(index: int) -> str:
    """The name in a memory of what belongs to one prompt."""
    return f"prompt/{index}"


def stacked(rows: Sequence[Tensor]) -> Anchor:
    """From one [3, Q] tensor (mean, var, count) a prompt."""
    mean, var, count = torch.stack(list(rows), 1)
    return Anchor(mean, var, count)


def _fields_read(prior: type[Prior], kind: str) -> list[str]:
    """Keys of the section that one of ours is constructed with; other arguments come from prior.kwargs."""
    if kind not in PRIORS.names() or prior.__init__ is object.__init__:
        return []
    known = {field.name for field in dataclasses.fields(PriorConfig)} - {"kind", "kwargs"}
    return [name for name in inspect.signature(prior).parameters if name in known]


def _wrong_anchor(anchor: Anchor, groups: Groups) -> str:
    """What is wrong with an anchor, in words; empty for a good one."""
    for name in ("mean", "var", "count"):
        value: Any = getattr(anchor, name)
        if not isinstance(value, Tensor) or value.shape != groups.mean.shape or value.dtype != torch.float64:
            return f"Anchor.{name} {_told(value)}, for [P, Q] = {list(groups.mean.shape)} float64"
        if not bool(torch.isfinite(value).all()):
            return f"Anchor.{name} with values that are not finite"
        if name != "mean" and bool((value < 0).any()):
            return f"Anchor.{name} with values below 0"
    return ""


def _wrong_memory(memory: Any) -> str:
    if not isinstance(memory, dict):
        return f"a memory that is a {type(memory).__name__}, for a dict of tensors"
    for name, value in memory.items():
        if not isinstance(value, Tensor) or value.dtype != torch.float64:
            return f"memory[{name!r}] {_told(value)}, for a tensor of float64"
        if not isinstance(name, str) or name == KEY:
            return f"a memory with the key {name!r}, for a text other than {KEY!r}"
    return ""


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, tuple):
        return f"({', '.join(type(one).__name__ for one in value)})"
    return type(value).__name__
