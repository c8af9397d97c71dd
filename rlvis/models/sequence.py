"""Sequence parallelism (Ulysses, arXiv 2309.14509): ranks compute one forward together, each on its tokens.

The denoiser's plan in diffusers splits the tokens before the first block and gathers the output; inside,
attention trades tokens for heads and back. `enable_parallelism` of the model would do this, but asks for an
accelerator even where there is none, so its parts are put together here. Every rank then has the whole output
and, of each parameter's gradient, the part of its tokens: the sum over the ranks is the gradient.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from rlvis.models.load import FAMILIES, family
from rlvis.models.policy import Policy
from rlvis.runtime.dist import World


def share_tokens(policy: Policy, world: World) -> None:
    """From here on, groups of `world.sequence` neighbouring ranks run every forward of the policy together,
    with equal inputs; a collective. LoRA must be in place.

    Raises ValueError for a family without a plan, and for heads or tokens that the ranks cannot share.
    """
    if world.sequence == 1:
        return
    check(policy, world.sequence)
    from diffusers.hooks.context_parallel import apply_context_parallel
    from diffusers.models._modeling_parallel import ContextParallelConfig, ParallelConfig
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(
        world.device.type,
        (world.data_size, 1, world.sequence),
        mesh_dim_names=("data", "ring", "ulysses"),
    )
    tokens = ContextParallelConfig(ulysses_degree=world.sequence, mesh=mesh)
    shared = ParallelConfig(context_parallel_config=tokens)
    shared.setup(world.rank, world.size, world.device, mesh=mesh)
    for denoiser in planned(policy):
        for part in denoiser.modules():
            processor: Any = getattr(part, "processor", None)
            if hasattr(processor, "_parallel_config"):
                processor._parallel_config = shared
        apply_context_parallel(denoiser, tokens, denoiser._cp_plan)
    # diffusers calls torch's gather by its old name, on every rank and in words for its developers.
    warnings.filterwarnings("ignore", message=".*all_gather_tensor", category=FutureWarning)


def planned(policy: Policy) -> list[Any]:
    """The denoisers with a plan among all that `predict` may run: one, two experts, a frozen copy of them."""
    parts: list[nn.Module] = [part for copy in policy.copies for part in copy.modules()]
    return [part for part in parts if getattr(part, "_cp_plan", None) is not None]


def check(policy: Policy, degree: int) -> None:
    """Raise ValueError where `degree` ranks cannot share the tokens of this policy's samples."""
    config, key = policy.config, f"engine.sequence_parallel={degree}"
    tokens = policy.shared_tokens()
    if tokens is None or not planned(policy):
        can = [n for n in FAMILIES.names() if family(n).shared_tokens is not Policy.shared_tokens]
        raise ValueError(
            f"{key}: ranks cannot share the tokens of model.family={config.family} (those of "
            f"{', '.join(can)} they can); type engine.sequence_parallel=1, and engine=zero3 or "
            "model.gradient_checkpointing=true for memory"
        )
    denoiser: Any = policy.module
    heads = denoiser.config.num_attention_heads
    if heads % degree:
        fits = [n for n in range(2, heads + 1) if heads % n == 0]
        raise ValueError(
            f"{key} must divide the {heads} attention heads of model.path={config.path}, each rank takes as "
            f"many; type engine.sequence_parallel={max([n for n in fits if n < degree], default=1)}"
        )
    if tokens.text % degree:
        raise ValueError(
            f"{key} must divide the {tokens.text} tokens of the text, which are shared out as well; type "
            f"model.max_tokens={tokens.text // degree * degree or degree}"
        )
    frames, rows, columns = tokens.grid
    if frames * rows * columns % degree:
        raise ValueError(
            f"{key} must divide the tokens of a sample, {frames} x {rows} x {columns} = "
            f"{frames * rows * columns} at {config.frames} x {config.height} x {config.width} pixels; "
            f"{_nearest(policy, degree)}"
        )


def _nearest(policy: Policy, degree: int) -> str:
    """The widths around the configured one whose tokens the ranks can share."""
    tokens = policy.shared_tokens()
    assert tokens is not None
    frames, rows, columns = tokens.grid
    unit = policy.config.width // columns
    widths = [
        next((n * unit for n in around if frames * rows * n % degree == 0), None)
        for around in (range(columns, 0, -1), range(columns, columns + degree + 1))
    ]
    legal = [str(width) for width in widths if width is not None]
    return f"the nearest width is {' or '.join(legal)}; type model.width={legal[0]}"
