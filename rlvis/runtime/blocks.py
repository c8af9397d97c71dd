"""Blocks of a module, for messages and tables: `transformer_blocks.3` says more than 600 parameter names."""

from __future__ import annotations

import math
from collections.abc import Iterable


def block(name: str) -> str:
    """The block of a parameter or module by its dotted name: all up to the first number, else the first part.

    >>> block("transformer_blocks.3.attn.to_out.0.weight"), block("proj_out.bias")
    ('transformer_blocks.3', 'proj_out')
    """
    parts = name.split(".")
    at = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: at + 1])


def norms(parameters: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The norm of each block from (name, norm) of its parameters, in their order; NaN stays NaN."""
    squares: dict[str, float] = {}
    for name, norm in parameters:
        squares[block(name)] = squares.get(block(name), 0.0) + norm * norm
    return {name: math.sqrt(value) for name, value in squares.items()}
