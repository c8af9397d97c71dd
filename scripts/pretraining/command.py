"""The command lines of the four scripts, and how each begins."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "rlvis" / "assets"
EARLY = "stop the phase earlier (not reproducible)"


def command_line(
    description: str, out: Path | None, state: Path | None, **flags: Any
) -> argparse.ArgumentParser:
    """--out and --state with these defaults, --resume, and the flags: a default, or (default, help).

    A flag has the type of its default, float where that is None; a list takes as many values.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=out, help="folder of the asset (below rlvis/assets/)")
    parser.add_argument("--state", type=Path, default=state, help="file that a run goes on from")
    parser.add_argument("--resume", action="store_true", help="go on from --state")
    for name, flag in flags.items():
        default, text = flag if isinstance(flag, tuple) else (flag, None)
        one = default[0] if isinstance(default, list) else default
        add: dict[str, Any] = {"nargs": len(default)} if isinstance(default, list) else {}
        kind = float if one is None else type(one)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, help=text, **add)
    return parser


def add_later(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    """A flag with a value and the flow step from which on it counts."""
    parser.add_argument(f"--{name}-later", type=float, nargs=2, metavar=(name.upper(), "STEP"), help=text)


def begin(seed: int, threads: int = 1) -> None:
    """Logging, the number of threads, the seed of weights that are drawn."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("pretraining").setLevel(logging.INFO)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
