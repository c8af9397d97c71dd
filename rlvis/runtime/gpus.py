"""Peak speeds of known GPUs, and their names."""

from __future__ import annotations

# Dense peak of makers' data sheets in TFLOP/s: (16-bit with float32 sums, float32 without TF32).
PEAKS = {
    "B200": (2250.0, 75.0),
    "H200": (989.0, 67.0),
    "H100": (989.0, 67.0),
    "H800": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "A800": (312.0, 19.5),
    "MI300X": (1307.0, 163.0),
    "L40S": (362.0, 91.6),
    "A40": (150.0, 37.4),
    "L4": (121.0, 30.3),
    "A10": (125.0, 31.2),
    "V100": (125.0, 15.7),
    "RTX 5090": (210.0, 105.0),
    "RTX 4090": (165.0, 82.6),
    "RTX 3090": (71.0, 35.6),
}


def match(name: str) -> str | None:
    """The table's name of a GPU that torch or a user calls `name`, such as "NVIDIA A100-SXM4-80GB", by whole
    words; None where it is not in the table.
    """
    words = f" {name.upper().replace('-', ' ').replace('_', ' ')} "
    return next((key for key in PEAKS if f" {key.upper()} " in words), None)
