"""What a transition kernel is: one step from x at sigma to x' at sigma_next, Gaussian or deterministic.

Every kernel is linear in (x, model output), so it is a function from the noise levels to a table of
coefficients, computed once in float64. The modules of rlvis/flow/kernels are ours; one of the user's own is
such a function, named by its dotted path. What it says of itself stands in its signature: the domain of eta
as a mark (rlvis/schema/key.py), `noise` where it reads sampler.noise, `path: FlowPath` where it is derived
for flows alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from rlvis.findings import ConfigError, mistake
from rlvis.named import Folder
from rlvis.schema import NoiseName
from rlvis.schema.key import argument_marks

Prediction = Literal["flow", "epsilon", "v_prediction", "sample"]

CONTRACT = (
    "def NAME(path: rlvis.flow.kernel.Path, eta: float) -> rlvis.flow.kernel.Coefficients: (x, v, std), each "
    "[T] float64 like path.sigma[1:], of x' ~ N(x * state + v * output, std^2)"
)
KERNELS = Folder("sampler.kernel", "rlvis.flow.kernels", CONTRACT)


class Coefficients(NamedTuple):
    """One step of each of T transitions, [T] float64 each: mean = x * state + v * model output, noise std."""

    x: Tensor
    v: Tensor
    std: Tensor


@dataclass(frozen=True)
class Path:
    """The noise levels of T steps, and what the model's output says there; float64 on the CPU.

    alpha, sigma: [T+1], at which a state is alpha x0 + sigma eps. x0_x, x0_v, eps_x, eps_v: [T], with
    x0 = x0_x * state + x0_v * output and eps = eps_x * state + eps_v * output.
    """

    alpha: Tensor
    sigma: Tensor
    x0_x: Tensor
    x0_v: Tensor
    eps_x: Tensor
    eps_v: Tensor

    @property
    def dt(self) -> Tensor:
        """sigma - sigma_next, [T]."""
        return self.sigma[:-1] - self.sigma[1:]

    def mix(self, x0_weight: Tensor, eps_weight: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (x, v) of x0_weight * x0 + eps_weight * eps, [T] each."""
        x = x0_weight * self.x0_x + eps_weight * self.eps_x
        return x, x0_weight * self.x0_v + eps_weight * self.eps_v

    def renewed(self, std: Tensor) -> Coefficients:
        """The step that draws noise of `std` [T] anew and keeps as much of the old as the next level has."""
        x, v = self.mix(self.alpha[1:], (self.sigma[1:].square() - std.square()).clamp(min=0).sqrt())
        return Coefficients(x, v, std)


class FlowPath(Path):
    """The straight path of a flow: alpha = 1 - sigma."""


@dataclass(frozen=True)
class Kernel:
    """A kernel with its constants.

    name: of a module of rlvis/flow/kernels, or the dotted path of the user's own. noise, eta: of sampler,
        for kernels that read them. prediction: what the model returns. `flow` is eps - x0, `v_prediction` is
        alpha eps - sigma x0.

    Raises:
        ConfigError: an unknown name, a function of another form, or an eta outside the kernel's range.
    """

    name: str
    noise: NoiseName = NoiseName.flow
    eta: float = 0.7
    prediction: Prediction = "flow"

    def __post_init__(self) -> None:
        """Check names, signature and the range of eta."""
        for field, allowed in (("noise", tuple(NoiseName)), ("prediction", get_args(Prediction))):
            if getattr(self, field) not in allowed:
                raise ConfigError(
                    f"kernel {field} must be one of {', '.join(allowed)}, got {getattr(self, field)!r}"
                )
        rule = self.rule
        try:
            inspect.signature(rule).bind("path", **self.settings)
        except (TypeError, ValueError) as error:  # ValueError: of a builtin, which shows no signature
            raise KERNELS.misfit(self.name, f"its arguments do not fit: {error}") from error
        for argument, _, mark in argument_marks(rule):
            if argument == "eta" and mark is not None and not mark.admits(self.eta):
                what = f"sampler.eta={self.eta} with sampler.kernel={self.name}"
                usual = 0.7 if mark.usual is None else mark.usual
                raise ConfigError(mistake(f"{what}: wanted {mark.wanted(self.eta)}", f"sampler.eta={usual}"))

    @property
    def rule(self) -> Callable[..., Any]:
        """The function that the name stands for."""
        rule: Callable[..., Any] = KERNELS.find(self.name)
        return rule

    @property
    def settings(self) -> dict[str, Any]:
        """Of eta and noise, those that it reads."""
        taken = inspect.signature(self.rule).parameters
        return {name: getattr(self, name) for name in ("eta", "noise") if name in taken}

    @property
    def needs_flow(self) -> bool:
        """Whether it is derived for flows alone."""
        hint = next((kind for _, kind, _ in argument_marks(self.rule)), None)
        return isinstance(hint, type) and issubclass(hint, FlowPath)

    def coefficients(self, path: Path) -> Coefficients:
        """Its table on the levels of `path`.

        Raises ConfigError where a function of the user's raises, or returns something else.
        """
        try:
            found = self.rule(path, **self.settings)
        except ConfigError:
            raise
        except Exception as error:  # whatever somebody else's function raises
            raise KERNELS.misfit(self.name, f"it raises {type(error).__name__}: {error}") from error
        parts = found if isinstance(found, tuple) else (found,)
        shape = path.dt.shape
        if len(parts) != 3 or not all(
            isinstance(one, Tensor) and one.shape == shape and one.dtype == torch.float64 for one in parts
        ):
            told = ", ".join(
                f"{list(one.shape)} {one.dtype}" if isinstance(one, Tensor) else type(one).__name__
                for one in parts
            )
            raise KERNELS.misfit(self.name, f"for {shape[0]} steps it returns {told}")
        return Coefficients(*parts)
