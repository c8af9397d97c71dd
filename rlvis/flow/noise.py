"""The noise of a rollout, named by (seed, step, prompt, sample): drawn when sampling, drawn again when an
update needs it.

prompts are positions in the data set, never in a batch; see `rlvis.runtime.rng`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rlvis.runtime import rng


def initial(
    shape: Sequence[int],
    *,
    seed: int,
    step: int,
    prompts: Sequence[int],
    samples: Sequence[int],
    share: bool = False,
) -> Tensor:
    """Noise [n, *shape] float32 (CPU) of grid point 0; `share`: one draw for all samples of a prompt."""
    samples = [0] * len(samples) if share else samples
    return rng.noise(shape, seed=seed, step=step, prompts=prompts, samples=samples, purpose="initial")


def of_transition(
    shape: Sequence[int], t: int, *, seed: int, step: int, prompts: Sequence[int], samples: Sequence[int]
) -> Tensor:
    """Noise [n, *shape] float32 (CPU) of transition t."""
    return rng.noise(shape, seed=seed, step=step, prompts=prompts, samples=samples, purpose=f"transition {t}")


def names(sample: Tensor, redraw: Tensor | None) -> list[int]:
    """What the noise of samples [n] is drawn as: of round r of a refill as of sample k + r 2^32, so that a
    fresh sample shares no draw with any other; `initial` with share has none of its own, whatever the round.
    """
    return (sample if redraw is None else sample + redraw * 2**32).tolist()
