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
