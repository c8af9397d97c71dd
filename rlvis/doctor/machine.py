"""The machine: versions of what is installed, GPUs that are seen and used, room on the disk and in memory.

Everything here is local to the process that asks, so the leading rank asks and tells the others.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rlvis
from rlvis.doctor.diagnosis import failure, ok, warning
from rlvis.findings import Finding, Number
from rlvis.flow.windows import trained_transitions
from rlvis.models.source import ASSET
from rlvis.runs.folder import OUTPUTS
from rlvis.runtime.dist import World
from rlvis.schema import Config, Dtype
from rlvis.training.parts import Parts
from rlvis.training.sampling import local_shards

GIB = 2**30
SHOWN = ("torch", "diffusers", "transformers", "deepspeed")
ROOM = 0.8  # of the free space that a run may take before it is worth a word


def versions() -> list[Finding]:
    """What is installed against what the package declares."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    wrong, installed = [], {"python": platform.python_version()}
    wanted, pythons = declared()
    for line in wanted:
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            have = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is not installed (wanted {need.specifier or 'any version'})")
            continue
        if need.name in SHOWN:
            installed[need.name] = have
        if not need.specifier.contains(have, prereleases=True):
            wrong.append(f"{need.name} {have} (wanted {need.specifier})")
    if pythons and not SpecifierSet(pythons).contains(installed["python"], prereleases=True):
        wrong.append(f"python {installed['python']} (wanted {pythons})")
    what = ", ".join(f"{name} {version}" for name, version in installed.items())
    if not wrong:
        return [ok("versions", what, dict(installed))]
    unmet = f"{len(wrong)} of {len(wanted)} requirements are not met: {'; '.join(wrong)}"
    why = "rlvis is tested with the versions it declares; others change numbers or names without a word"
    return [warning("versions", unmet, dict(installed), why=why, type="pip install -c constraints.txt rlvis")]


def declared() -> tuple[list[str], str]:
    """The requirements of the package and its Python, from its metadata or, in a checkout, pyproject.toml."""
    project = Path(rlvis.__file__).resolve().parents[1] / "pyproject.toml"
    if project.is_file():
        section = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        if section.get("name") == "rlvis":
            return list(section.get("dependencies", [])), str(section.get("requires-python", ""))
    try:
        about = metadata.metadata("rlvis")
    except metadata.PackageNotFoundError:
        return [], ""
    return list(metadata.requires("rlvis") or []), str(about.json.get("requires_python", ""))


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees: its name, memory in bytes, and whether it computes in bfloat16."""

    name: str
    memory: int
    bfloat16: bool


def visible() -> list[Gpu]:
    """The GPUs that this process may use."""
    if not torch.cuda.is_available():
        return []
    devices = []
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        devices.append(Gpu(about.name, about.total_memory, about.major >= 8 or torch.version.hip is not None))
    return devices


def gpus(config: Config, world: World) -> list[Finding]:
    """GPUs that are seen, used and idle; bfloat16 where it is asked for."""
    devices = visible()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    if not devices:
        return [ok("gpu", f"torch sees no GPU; {_processes(here)} on the CPU", {"gpus": 0})]
    names = sorted({f"{gpu.name}, {gpu.memory / GIB:.0f} GiB" for gpu in devices})
    numbers: dict[str, Number] = {"gpus": len(devices), "processes": here, "names": "; ".join(names)}
    what = f"{_processes(here)} on {world.device}; torch sees {len(devices)} x {' | '.join(names)}"
    idle = len(devices) - (here if world.device.type == "cuda" else 0)
    if idle > 0 and config.engine.device != "cpu" and not config.model.path.startswith(ASSET):
        why = f"{idle} of {len(devices)} GPUs have nothing to do; a step's samples are shared among processes"
        kind = f"torchrun --nproc-per-node {len(devices)} train.py ... (or CUDA_VISIBLE_DEVICES=0 for one)"
        return [warning("gpu", what, numbers, why=why, type=kind)]
    if (
        world.device.type == "cuda"
        and config.model.dtype is Dtype.bfloat16
        and not devices[world.local_rank].bfloat16
    ):
        why = "this GPU has no bfloat16 units and emulates it: slow"
        return [warning("gpu", what, numbers, why=why, type="model.dtype=float16, or model.dtype=float32")]
    return [ok("gpu", what, numbers)]


def _processes(count: int) -> str:
    return f"{count} process{'' if count == 1 else 'es'}"


def disk(parts: Parts, run_dir: Path | None) -> list[Finding]:
    """Room for checkpoints, export, samples and records, where the run writes."""
    config = parts.config
    needs = written(parts)
    total = sum(needs.values())
    folder = run_dir or Path(config.run_dir or OUTPUTS).expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    shares = ", ".join(f"{_size(size)} {name}" for name, size in needs.items() if size)
    what = f"the run writes up to {_size(total)} ({shares}); {_size(free)} are free at {folder}"
    numbers = {"needed_gib": round(total / GIB, 4), "free_gib": round(free / GIB, 4)}
    if total <= ROOM * free:
        return [ok("disk", what, numbers)]
    why = "a checkpoint that does not fit stops the run when it is written, hours after the start"
    kind = "run_dir=DIR on another disk, train.keep=1, or train.save_records=false"
    return [(failure if total > free else warning)("disk", what, numbers, why=why, type=kind)]


def written(parts: Parts) -> dict[str, int]:
    """Bytes that a run has on the disk at most, by kind: (train.keep + 1) checkpoints, for the newest is
    whole before the oldest goes.
    """
    config = parts.config
    train = config.train
    trained = sum(_count(p) for _, p in parts.policy.trainable())
    # Masters and AdamW's two moments; above stage 0 DeepSpeed writes the working weights beside the masters.
    each = 12 + (parts.policy.trainable()[0][1].element_size() if parts.engine.stage else 0)
    saves = train.steps // train.save_every + 1 if train.save_every else 1
    whole = [m for m in parts.policy.pipe.components.values() if isinstance(m, nn.Module)]
    export = sum(_count(p) * p.element_size() for module in whole for p in module.parameters())
    sheets = 1 + train.steps // config.tracker.samples_every if config.tracker.samples_every else 0
    picture = 3 * config.model.height * config.model.width * config.model.frames
    return {
        "of checkpoints": min(saves, train.keep + 1) * trained * (each + (4 if parts.ema is not None else 0)),
        "of exported weights": export if config.model.lora is None else 4 * trained,
        "of samples": sheets * config.tracker.samples * picture // (2 if config.model.frames == 1 else 20),
        "of records": train.steps * parts.world.data_size * record_bytes(parts) if train.save_records else 0,
    }


def record_bytes(parts: Parts) -> int:
    """Bytes of one rank's trajectories of a step: kept states, log-probs, and the map."""
    config, world = parts.config, parts.world
    rows = -(-config.data.prompts_per_step * config.data.samples_per_prompt // world.data_size)
    c, *positions = parts.policy.latent_shape
    places = math.prod(positions)
    trained = trained_transitions(config.sampler)
    kept = min(2 * trained, config.sampler.steps + 1)
    state = c * places * (4 if config.sampler.storage is Dtype.float32 else 2)
    return rows * (kept * state + (trained + (parts.psm is not None)) * places * 4)


def memory(parts: Parts) -> list[Finding]:
    """Host memory for the records of a step on this machine's processes, with frames and averages."""
    config, world = parts.config, parts.world
    rows = max(len(shard.rows) for shard in local_shards(parts))
    frames = rows * config.model.frames * 3 * config.model.height * config.model.width
    average = 0 if parts.ema is None else 4 * sum(_count(p) for _, p in parts.policy.trainable())
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world.size))
    # Shards are joined once, so that trajectories exist twice for a moment.
    total = here * (2 * record_bytes(parts) + frames + average)
    free = available()
    c, *positions = parts.policy.latent_shape
    what = f"the records of a step take {_size(total)} of host memory"
    numbers: dict[str, Number] = {
        "needed_gib": round(total / GIB, 4),
        "latent": f"{c} {positions}",
    }
    if free is None:
        return [ok("memory", f"{what}; how much is free is not known here", numbers)]
    numbers["free_gib"] = round(free / GIB, 3)
    what += f"; {_size(free)} are free"
    if total <= ROOM * free:
        return [ok("memory", what, numbers)]
    why = "the kernel kills a process that takes more memory than there is, without a message of its own"
    kind = "train.shard=N (frames of N rows at a time), sampler.storage=bfloat16, or fewer samples a step"
    return [(failure if total > free else warning)("memory", what, numbers, why=why, type=kind)]


def available() -> int | None:
    """Bytes of host memory that are free for us, also inside a container; None where nobody says."""
    limits = []
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    most, used = (_lines(Path("/sys/fs/cgroup") / f"memory.{name}") for name in ("max", "current"))
    if most and used and most[0].isdigit() and used[0].isdigit():
        cache = next(
            (int(x.split()[1]) for x in _lines(Path("/sys/fs/cgroup/memory.stat")) if x[:5] == "file "), 0
        )
        limits.append(int(most[0]) - int(used[0]) + cache)
    return min(limits, default=None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _count(parameter: Any) -> int:
    """Values of a parameter, also of one whose shards lie on several ranks."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _size(size: float) -> str:
    for unit, name in ((2**40, "TiB"), (GIB, "GiB"), (2**20, "MiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size / 1024:.3g} KiB"
