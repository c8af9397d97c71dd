"""Types that several groups share."""

from __future__ import annotations

from enum import Enum


class Dtype(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Reduction(Enum):
    mean = "mean"
    sum = "sum"
