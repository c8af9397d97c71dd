"""RUN/manifest.json: what it takes to run the same again, and on what it ran.

Commit, versions, command line, seed and hardware. No environment variable, host or user name, and no value
that is secret by its name.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import rlvis
from rlvis import writing
from rlvis.runs.redact import public_word
from rlvis.schema import Config

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "peft",
    "deepspeed",
    "hydra-core",
    "omegaconf",
    "safetensors",
    "numpy",
    "pillow",
    "datasets",
    "wandb",
)


def write(run_dir: Path, config: Config, argv: Sequence[str], world_size: int, device: str) -> Path:
    """Write manifest.json into a run folder; a resumed run keeps what was there in `earlier`, oldest first.

    argv: the command line as typed. world_size: processes. device: such as "cpu" or "cuda:0".
    """
    path = run_dir / "manifest.json"
    content = collect(config, argv, world_size, device)
    if path.exists():
        before = _read(path)
        content["earlier"] = [*before.pop("earlier", []), before]
    return writing.text(path, json.dumps(content, indent=1) + "\n")


def started(run_dir: Path) -> str:
    """When a run was first started, UTC in ISO format; where no manifest tells, the local time that its
    folder's name is; "" where that is none.
    """
    content = _read(run_dir / "manifest.json")
    earlier = content.get("earlier")
    first = earlier[0] if isinstance(earlier, list) and earlier else content
    if isinstance(first, dict) and isinstance(first.get("started"), str):
        return str(first["started"])
    try:
        local = datetime.strptime(run_dir.name[:19], "%Y-%m-%d_%H-%M-%S")
    except ValueError:
        return ""
    return local.astimezone(UTC).isoformat(timespec="seconds")


def collect(config: Config, argv: Sequence[str], world_size: int, device: str) -> dict[str, Any]:
    """The manifest as JSON values."""
    return {
        "name": config.name,
        "command": shlex.join(public_word(word) for word in argv),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": config.seed,
        "git": git(),
        "versions": versions(),
        "hardware": hardware(device) | {"processes": world_size},
    }


def git(package: Path | None = None) -> dict[str, Any] | None:
    """Commit of the source that runs, and whether it was changed since; None where rlvis is no git checkout.

    An installed package that merely lies inside somebody's repository is no checkout of it, so its file must
    be tracked.
    """
    folder = (package or Path(rlvis.__file__)).resolve().parent
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def versions() -> dict[str, str]:
    """Python, rlvis and the packages that decide what is computed; what is not installed is left out."""
    entries = {"python": platform.python_version(), "rlvis": rlvis.__version__}
    for package in PACKAGES:
        try:
            entries[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return entries


def hardware(device: str) -> dict[str, Any]:
    """Processor, memory and GPU of this machine, without its name."""
    import torch

    entries: dict[str, Any] = {
        "device": device,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if device.startswith("cuda") and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.device(device))
        entries |= {
            "gpu": properties.name,
            "gpu_gib": round(properties.total_memory / 2**30, 1),
            "gpus": torch.cuda.device_count(),
            "cuda": torch.version.cuda,
        }
    return entries


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def _git(folder: Path, *words: str) -> str | None:
    """What git says; None when there is no git or it refuses."""
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
