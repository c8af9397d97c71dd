"""Run a function of a test module in W processes on this machine, joined by gloo, as by a launcher.

    results = launch(function, 2, argument, ...)      # function(world, argument, ...), results in rank order

Ranks are forked from a server process that has imported the heavy libraries and nothing else, so a rank costs
no import, and nothing of the test session leaks in. The function is looked up by its file and name.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import pickle
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[2]
# None of these starts a thread, which a fork would lose.
HEAVY = [
    "diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3",
    "diffusers.pipelines.wan.pipeline_wan",
    "deepspeed",
    "rlvis.doctor.examine",
    "rlvis.training.loop",
]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(HEAVY)
CPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}  # from the server's start on


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(
    function: Callable[..., Any], size: int, *arguments: Any, seconds: float = 240, sequence: int = 1
) -> list[Any]:
    """What `function(world, *arguments)` returned on each of `size` ranks; both must survive pickle.

    sequence: ranks that share the tokens of a sample.
    Raises AssertionError with the stderr of a rank that failed, or of all when they hang.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "arguments").write_bytes(pickle.dumps(arguments))
        common = {
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
        }
        source = sys.modules[function.__module__].__file__
        ranks = [
            FORKS.Process(
                target=_child,
                args=(str(source), function.__name__, name, sequence),
                kwargs=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(size)
        ]
        try:
            with mock.patch.dict(os.environ, CPU):
                for process in ranks:
                    process.start()
            _wait(ranks, folder, seconds)
        finally:
            for process in ranks:
                if process.pid is not None:
                    process.kill()
                    process.join()
        return [pickle.loads((folder / f"result.{rank}").read_bytes()) for rank in range(size)]


def _wait(ranks: Sequence[BaseProcess], folder: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        codes = [process.exitcode for process in ranks]
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed:
            rank = failed[0]
            raise AssertionError(f"rank {rank} exited with {codes[rank]}:\n{_log(folder, rank)}")
        if all(code == 0 for code in codes):
            return
        if time.monotonic() > end:
            logs = "\n".join(f"rank {rank}:\n{_log(folder, rank)}" for rank in range(len(ranks)))
            raise AssertionError(f"{len(ranks)} ranks did not finish in {seconds} s\n{logs}")
        time.sleep(0.05)


def _log(folder: Path, rank: int) -> str:
    return (folder / f"log.{rank}").read_text(errors="replace")[-6000:]


def _child(source: str, function: str, folder: str, sequence: int, **environment: str) -> None:
    """One rank: join, run, hand back."""
    import torch

    from rlvis.runtime import dist

    log = os.open(Path(folder) / f"log.{environment['RANK']}", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(ROOT)
    os.environ.update(environment)
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location(Path(source).stem, source)
    assert spec is not None, source
    assert spec.loader is not None, source
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    world = dist.start("cpu", sequence)
    result = getattr(module, function)(world, *pickle.loads((Path(folder) / "arguments").read_bytes()))
    (Path(folder) / f"result.{world.rank}").write_bytes(pickle.dumps(result))
    dist.barrier()
    dist.stop()
    # On a loaded machine gloo's threads sometimes outlive the interpreter and abort it after all is done.
    os._exit(0)
