"""Metric values that carry their own reduction: a mean knows its count, a maximum stays a maximum.

Values are merged over micro-batches on a rank, then over ranks with one collective. The collective is a
gather (a sum would turn maxima into nonsense), handed in as a callable, so this module knows nothing of
torch.distributed.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mean:
    """A weighted mean: `sum` of the weighted values over `count`, the sum of the weights.

    >>> merge([{"a": Mean(2.0, 1)}, {"a": Mean(1.0, 2)}])["a"].result()
    1.0
    """

    sum: float = 0.0
    count: float = 0.0

    @classmethod
    def of(cls, values: Tensor, weight: Tensor | None = None) -> Mean:
        """Mean over all elements of `values`; `weight` broadcasts to it, where it is 0 there may be NaN."""
        wide = values.detach().double()
        if weight is None:
            return cls(float(wide.sum()), float(wide.numel()))
        weights = weight.detach().double().expand_as(wide)
        product = torch.where(weights == 0, torch.zeros_like(wide), wide * weights)
        return cls(float(product.sum()), float(weights.sum()))

    def merge(self, other: Mean) -> Mean:
        return Mean(self.sum + other.sum, self.count + other.count)

    def result(self) -> float | None:
        return self.sum / self.count if self.count else None


@dataclass(frozen=True, slots=True)
class Max:
    """The largest value seen; NaN once a NaN was seen, so that no NaN hides behind a maximum."""

    value: float = -math.inf

    @classmethod
    def of(cls, values: Tensor) -> Max:
        """Maximum over all elements; nothing for an empty tensor."""
        return cls(float(values.detach().max())) if values.numel() else cls()

    def merge(self, other: Max) -> Max:
        return Max(math.nan if _has_nan(self.value, other.value) else max(self.value, other.value))

    def result(self) -> float | None:
        return None if self.value == -math.inf else self.value


@dataclass(frozen=True, slots=True)
class Min:
    """The smallest value seen; NaN once a NaN was seen."""

    value: float = math.inf

    @classmethod
    def of(cls, values: Tensor) -> Min:
        """Minimum over all elements; nothing for an empty tensor."""
        return cls(float(values.detach().min())) if values.numel() else cls()

    def merge(self, other: Min) -> Min:
        return Min(math.nan if _has_nan(self.value, other.value) else min(self.value, other.value))

    def result(self) -> float | None:
        return None if self.value == math.inf else self.value


@dataclass(frozen=True, slots=True)
class Sum:
    """A total: counts, and losses that are already divided by a planned denominator."""

    value: float = 0.0

    def merge(self, other: Sum) -> Sum:
        return Sum(self.value + other.value)

    def result(self) -> float | None:
        return self.value


@dataclass(frozen=True, slots=True)
class Last:
    """The value of the last micro-batch, and of the highest rank: for what is equal on all ranks, such as a
    learning rate.
    """

    value: float

    def merge(self, other: Last) -> Last:
        return other

    def result(self) -> float | None:
        return self.value


Value = Mean | Max | Min | Sum | Last


def merge(parts: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    """Reduce a sequence of value dictionaries key by key, in order; a key may be absent from some of them."""
    merged: dict[str, Value] = {}
    for part in parts:
        for key, value in part.items():
            before = merged.get(key)
            if before is None:
                merged[key] = value
                continue
            if type(before) is not type(value):
                raise ValueError(
                    f"metric {key!r}: cannot merge {type(before).__name__} with {type(value).__name__}; "
                    "use one reduction for one key"
                )
            merged[key] = before.merge(value)  # type: ignore[arg-type]
    return merged


def results(values: Mapping[str, Value]) -> dict[str, float]:
    """The plain numbers. A value that has seen nothing (a mean of no samples) is left out: 0 would be a
    claim.
    """
    return {key: number for key, value in values.items() if (number := value.result()) is not None}


def to_vector(values: Mapping[str, Value]) -> Tensor:
    """All values as one float64 vector [L] on the CPU, keys in sorted order, led by a checksum of keys and
    reductions.
    """
    numbers = [float(_checksum(values))]
    for key in sorted(values):
        numbers.extend(dataclasses.astuple(values[key]))
    return torch.tensor(numbers, dtype=torch.float64)


def from_vector(vector: Tensor, like: Mapping[str, Value]) -> dict[str, Value]:
    """The values in `vector` [L], with the keys and reductions of `like`.

    Raises ValueError where the vector was made from other keys or reductions, which on a rank means a bug.
    """
    numbers = vector.tolist()
    widths = {key: len(dataclasses.fields(like[key])) for key in sorted(like)}
    if len(numbers) != 1 + sum(widths.values()) or numbers[0] != float(_checksum(like)):
        raise ValueError(
            f"metrics differ between ranks: this rank has {len(like)} keys {sorted(like)}, "
            f"another one's vector of {len(numbers)} numbers was made from others; "
            "every rank must start from the same empty values"
        )
    values: dict[str, Value] = {}
    start = 1
    for key, width in widths.items():
        values[key] = type(like[key])(*numbers[start : start + width])
        start += width
    return values


def reduce(values: Mapping[str, Value], gather: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
    """The numbers of a step over all ranks, equal on each, with one collective.

    gather: float64 [1, L] -> [W, L], the rows of all W ranks in rank order (`runtime.dist.all_gather_rows`);
    None on one rank. All ranks must hold the same keys: begin with empty ones (`Mean()`, `Max()`), as a rank
    may have nothing to add.
    """
    if gather is None:
        return results(values)
    rows = gather(to_vector(values)[None])
    return results(merge(from_vector(row, values) for row in rows))


def _checksum(values: Mapping[str, Value]) -> int:
    return zlib.crc32(";".join(f"{key}:{type(values[key]).__name__}" for key in sorted(values)).encode())


def _has_nan(*numbers: float) -> bool:
    return any(math.isnan(number) for number in numbers)
