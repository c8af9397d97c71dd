"""Sixty steps of `python train.py` as numbers in a file, and whether this tree still goes that way.

    python scripts/reference_curve.py write                 # trains, writes tests/reference/default.json
    python scripts/reference_curve.py compare [--steps 60]  # trains again; exit code 1 where a number is out

A change that is meant to keep the numbers is held to the file; one that is meant to move them writes it anew,
and the difference between the files shows by how much. A machine repeats the run bit for bit. Another adds
float32 numbers in another order, and the two drift apart, tenfold in about five steps: hence two tolerances.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

FILE: Final = ROOT / "tests" / "reference" / "default.json"
STEPS: Final = 60
WORDS: Final = ("seed=0", "threads=1", "engine.device=cpu")
QUIET: Final = ("doctor=off", "tracker.samples_every=0")  # no number of the curve depends on them
Tolerance = Mapping[str, tuple[float, float]]  # key -> how far off a number may be: (relative, absolute)
# Measured with vector instructions switched off (torch's, MKL's and oneDNN's), with another order of MKL's
# sums, and on two threads. Up to step NEAR the run is off by at most 4e-6 in mean and spread of the reward,
# 1e-4 of the ratio's deviation, 2e-8 in the loss and 6e-6 of the gradient's norm. The tolerance is 25 times
# as wide, and a wrong clip range, learning rate or divisor of the spread leaves it in the first two steps.
NEAR: Final = 10
CLOSE: Final[Tolerance] = {
    "reward/mean": (0.0, 1e-4),
    "reward/std": (0.0, 1e-4),
    "ratio/max_deviation": (5e-3, 0.0),
    "update/loss": (0.0, 5e-7),
    "update/grad_norm": (5e-4, 0.0),
}
# Later on two healthy runs are two draws of the same learning; 0.018,
# 0.026, 30 %, 5.5e-6 and 5 % were seen.
LOOSE: Final[Tolerance] = {
    "reward/mean": (0.0, 0.06),
    "reward/std": (0.0, 0.08),
    "ratio/max_deviation": (0.8, 0.0),
    "update/loss": (0.0, 2e-5),
    "update/grad_norm": (0.2, 0.0),
}


def replay(steps: int, words: Sequence[str] = ()) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Train the default run for so many steps, with `words` typed after it: a row a step, and its manifest.

    Raises RuntimeError when the run fails.
    """
    from rlvis.cli import main as rlvis

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        code = rlvis(["train", *WORDS, *QUIET, f"train.steps={steps}", f"run_dir={run}", *words])
        if code != 0:
            raise RuntimeError(f"the run ended with exit code {code}")
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    return [{key: row[key] for key in ("step", *CLOSE)} for row in map(json.loads, lines)], manifest


def differences(rows: Sequence[Mapping[str, float]], stored: Sequence[Mapping[str, float]]) -> list[str]:
    """A sentence for every number of `rows` that is farther from the stored one than its step allows."""
    lines = []
    for row, wanted in zip(rows, stored, strict=False):
        step = int(wanted["step"])
        tolerance = CLOSE if step <= NEAR else LOOSE
        for key, (relative, absolute) in tolerance.items():
            if not math.isclose(row[key], wanted[key], rel_tol=relative, abs_tol=absolute):
                limit = max(relative * abs(wanted[key]), absolute)
                lines.append(
                    f"step {step}: {key} is {row[key]:.7g}, stored {wanted[key]:.7g}, off by "
                    f"{abs(row[key] - wanted[key]):.1e} where {limit:.1e} is allowed"
                )
    return lines


def read(path: Path = FILE) -> dict[str, Any]:
    """The stored curve: command, versions, hardware, tolerances and rows."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def write(path: Path = FILE) -> None:
    """Train and store."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content(*replay(STEPS)), encoding="utf-8")


def content(rows: Sequence[Mapping[str, float]], manifest: Mapping[str, Any]) -> str:
    """The file: a line for each entry and for each step, so that a difference can be read."""
    head = {
        "command": " ".join(["python train.py", *WORDS]),
        "versions": manifest["versions"],
        "hardware": manifest["hardware"],
        f"tolerance of steps 1 to {NEAR}": CLOSE,
        f"tolerance of steps {NEAR + 1} to {STEPS}": LOOSE,
        "why": "(relative, absolute). float32 sums differ between processors and libraries, and the "
        "difference grows with the steps; measured as scripts/reference_curve.py says",
    }
    lines = [f' "{key}": {json.dumps(value)}' for key, value in head.items()]
    steps = [json.dumps({key: _short(value) for key, value in row.items()}) for row in rows]
    listed = ",\n  ".join(steps)
    return "{\n" + ",\n".join([*lines, f' "steps": [\n  {listed}\n ]']) + "\n}\n"


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.8g}")


def main() -> int:
    """Exit code 0, or 1 where a number is out of its tolerance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("action", choices=("write", "compare"))
    parser.add_argument("--steps", type=int, default=STEPS, help="how many steps to train again")
    arguments = parser.parse_args()
    if arguments.action == "write":
        write()
        print(f"{STEPS} steps written to {FILE}")
        return 0
    lines = differences(replay(arguments.steps)[0], read()["steps"])
    print("\n".join([*lines, f"{arguments.steps} steps, {len(lines)} numbers out of their tolerance"]))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
