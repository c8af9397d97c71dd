"""Types that several groups share."""

from __future__ import annotations

from enum import StrEnum


class Dtype(StrEnum):
    """Of tensors: their names in torch."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Reduction(StrEnum):
    """Of several numbers to one."""

    mean = "mean"
    sum = "sum"
