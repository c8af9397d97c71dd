"""Fixtures that several rooms use: one tiny Stable Diffusion 3 pipeline on disk for the whole session."""

from __future__ import annotations

import os
from pathlib import Path

# Several small models in one process: more threads than this only fight each other, and bits would depend on
# the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from tests import tiny

WORKER_GIB = 3.0  # a worker grows to 2, and the ranks that its tests start hold half a GiB each


def pytest_xdist_auto_num_workers() -> int | None:
    """What `-n auto` means: a worker for each core, as far as memory reaches; 0, in this process, instead of
    one. PYTEST_XDIST_AUTO_NUM_WORKERS says otherwise.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # pytest-xdist reads it
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, int(psutil.virtual_memory().available / 2**30 / WORKER_GIB))
    return workers if workers > 1 else 0


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sd3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StableDiffusion3Pipeline with random weights."""
    return tiny.sd3(tmp_path_factory.mktemp("tiny") / "sd3")


@pytest.fixture(scope="session")
def wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WanPipeline with random weights that can start from a frame."""
    return tiny.wan(tmp_path_factory.mktemp("tiny") / "wan", expand=True)
