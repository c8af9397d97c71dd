"""What a result depends on besides the code: commit, machine, threads, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "diffusers", "transformers", "peft", "deepspeed", "numpy")


def describe(device: torch.device) -> dict[str, Any]:
    """Plain values for the result file."""
    gpu, mkl = device.type == "cuda", cast(Any, torch.backends.mkl)
    return {
        "device_type": device.type,
        "device": torch.cuda.get_device_name(device) if gpu else _processor(),
        "clock": "wall time, synchronised" if gpu else "processor time",
        "cpu_cores": os.cpu_count(),
        "threads": {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
            "MKL_NUM_THREADS": os.environ.get("MKL_NUM_THREADS"),
            "torch": torch.get_num_threads(),
            "mkl": mkl.is_available(),
        },
        "precision": f"float32, matmul {'tf32' if torch.backends.cuda.matmul.allow_tf32 else 'full'}",
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
    """The checked-out commit, marked when files differ from it; "unknown" outside a git checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "rlvis", "benchmarks")
        return git("rev-parse", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
