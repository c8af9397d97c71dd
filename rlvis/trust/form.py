"""What a trust is: it gives each group of a step a weight, from the group and what it is compared with.

The modules of rlvis/trust/forms are ours; one of the user's own is named by its dotted path. It is a
function, or a class that is constructed with the keywords and whose instances are called as the function is;
only a class can state facts: `needs_variance` (it reads the prior's own variance; refused with a prior that
has none) and `has_posterior` (it has a posterior mean under a Gaussian prior, which trust.jsonl then tells).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlvis.findings import ConfigError, mistake
from rlvis.named import Folder, bind
from rlvis.schema import TrustConfig
from rlvis.trust.groups import Groups
from rlvis.trust.prior import Anchor

CONTRACT = """\
def my_trust(groups, anchor, unit, **kwargs):
    # groups: values [P, K, Q], valid [P, K], count [P, 1], mean and var [P, Q]; unit [Q]: of deviations;
    # anchor, what they are compared with: mean, var, count [P, Q]
    return weight  # [P, Q] float64, finite, at least 0"""
FORMS = Folder("trust.kind", "rlvis.trust.forms", CONTRACT)
ARGUMENTS = ("groups", "anchor", "unit")


class Weighed(NamedTuple):
    """weight [P, Q], and the variance of the prior [P, Q] that it rests on, in raw units."""

    weight: Tensor
    prior_var: Tensor


Form = Callable[[Groups, Anchor, Tensor], Tensor | Weighed]


def form_of(config: TrustConfig) -> Form:
    """The trust of a configuration. Keywords come from trust.kwargs; one of ours takes those from its section
    of `trust` that have a key there.

    Raises ConfigError: there is none of that name, it cannot be called as one, or its keywords do not fit it.
    """
    kind = config.kind
    found = FORMS.find(kind)
    section = getattr(config, kind, None) if kind in FORMS.names() else None
    keys = {n: getattr(section, n) for n in inspect.signature(found).parameters if hasattr(section, n)}
    if inspect.isclass(found):
        call = next((vars(base)["__call__"] for base in found.__mro__ if "__call__" in vars(base)), None)
        if call is None:
            raise FORMS.misfit(kind, "it is a class whose instances cannot be called")
        bind(call, ("self", *ARGUMENTS), {}, f"trust.kind={kind}: its __call__", contract=CONTRACT)
    for name in sorted(keys.keys() & config.kwargs.keys()):
        value = config.kwargs[name]
        raise ConfigError(
            mistake(
                f"trust.kwargs.{name}={value} with trust.kind={kind}, which has a section",
                f"trust.{kind}.{name}={value}",
            )
        )
    places, given = () if inspect.isclass(found) else ARGUMENTS, {**keys, **config.kwargs}
    bind(found, places, given, f"trust.kind={kind}", key="trust.kwargs", contract=CONTRACT)
    made = partial(found, **given)
    form: Form = made() if inspect.isclass(found) else made
    return form


def about(kind: str) -> str:
    """What one of ours does, for a reader of a report; empty for any other, whose module is not imported."""
    if kind not in FORMS.names():
        return ""
    return " ".join((inspect.getdoc(FORMS.find(kind)) or "").split())


def weights(form: Form, kind: str, groups: Groups, anchor: Anchor, unit: Tensor) -> Weighed:
    """What the form called `kind` gives the groups: 1 where a group or its anchor rests on nothing, or the
    unit is infinite.

    Raises ConfigError where it returns anything but weights.
    """
    result: Any = form(groups, anchor, unit)
    weighed = result if isinstance(result, Weighed) else Weighed(result, anchor.var)
    weight, shape = weighed.weight, groups.mean.shape
    if not isinstance(weight, Tensor) or weight.shape != shape or weight.dtype != torch.float64:
        told = f"{list(weight.shape)} {weight.dtype}" if isinstance(weight, Tensor) else type(weight).__name__
        raise FORMS.misfit(kind, f"it returns {told}, for weights [P, Q] = {list(shape)} float64")
    weight = torch.where((groups.count > 0) & (anchor.count > 0) & unit.isfinite(), weight, 1.0)
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise FORMS.misfit(kind, f"a weight is {float(weight[~(weight >= 0) | weight.isinf()][0])}")
    return Weighed(weight, weighed.prior_var)
