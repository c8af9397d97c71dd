"""Processes: who we are, and the few collectives that the stages use.

One process needs no launcher and opens no port. With several, scalars travel through gloo on the CPU (float64
exactly as computed) and gradients through whatever DeepSpeed uses. Every function here is the identity on one
process. With sequence parallelism neighbouring ranks hold the same rows and the first speaks for all of them:
sums and gathers count every row once.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as torch_dist
from torch import Tensor

CPU = torch.device("cpu")
_sequence = 1  # ranks that hold the same rows, as `start` was told


@dataclass(frozen=True)
class World:
    """This process among all: rank in 0..size-1, local_rank on its machine, and the device it computes on.

    sequence: ranks that compute every forward of the same rows together, each on its share of the tokens; it
    divides size, and ranks r // sequence are one such group.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = CPU
    sequence: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the files of the run."""
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """This rank's group among the `data_size` groups that share out the rows; the rank itself without
        sequence parallelism.
        """
        return self.rank // self.sequence

    @property
    def data_size(self) -> int:
        """Groups of ranks that share out the rows."""
        return self.size // self.sequence

    @property
    def holds_first(self) -> bool:
        """Whether this rank is the first of those that hold its rows."""
        return self.rank % self.sequence == 0

    def rows(self, total: int) -> range:
        """The rows of `total` that this rank owns, r*total//n up to (r+1)*total//n for group r of n."""
        r, n = self.data_rank, self.data_size
        return range(r * total // n, (r + 1) * total // n)


def environment() -> tuple[int, int, int]:
    """(rank, world size, local rank) as torchrun or the deepspeed launcher set them; (0, 1, 0) without a
    launcher.
    """
    return (
        int(os.environ.get("RANK", "0")),
        int(os.environ.get("WORLD_SIZE", "1")),
        int(os.environ.get("LOCAL_RANK", "0")),
    )


def start(device: str = "auto", sequence: int = 1) -> World:
    """Join the other processes and choose the device: `auto` (a GPU if there is one), `cpu` or `cuda`.

    sequence: neighbouring ranks that hold the same rows; it must divide the number of processes.
    Raises ValueError when cuda is asked for and there is none.
    """
    global _sequence
    rank, size, local_rank = environment()
    assert size % sequence == 0, f"{size} processes in groups of {sequence}"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "engine.device=cuda, but torch sees no GPU; type engine.device=cpu or engine.device=auto"
        )
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        torch.cuda.set_device(local_rank)
    os.environ.setdefault("LOCAL_RANK", str(local_rank))  # DeepSpeed insists on it, launcher or not
    if not torch_dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        if size == 1:
            torch_dist.init_process_group(backend, store=torch_dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        else:
            torch_dist.init_process_group(backend, rank=rank, world_size=size)
    _sequence = sequence
    here = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    return World(rank, size, local_rank, here, sequence)


def stop() -> None:
    """Leave the process group, so that another run can start in this process."""
    global _sequence
    _sequence = 1
    if not torch_dist.is_initialized():
        return
    deepspeed_comm = sys.modules.get("deepspeed.comm")  # it keeps groups of its own, which would outlive ours
    if deepspeed_comm is not None and deepspeed_comm.is_initialized():
        deepspeed_comm.destroy_process_group()
    else:
        torch_dist.destroy_process_group()


def _several() -> bool:
    return torch_dist.is_initialized() and torch_dist.get_world_size() > 1


def is_duplicate() -> bool:
    """Whether another rank speaks for the rows that this one holds as well (see `World.holds_first`)."""
    return _several() and torch_dist.get_rank() % _sequence != 0


def all_gather_rows(rows: Tensor, *, every_rank: bool = False) -> Tensor:
    """Join every rank's rows [n_r, ...] in rank order -> [sum n_r, ...], on the CPU. The n_r may differ.

    Of ranks that hold the same rows only the first's are taken. every_rank: of all, for tables of ranks.
    """
    rows = rows.detach().cpu().contiguous()
    if not _several():
        return rows
    if is_duplicate() and not every_rank:
        rows = rows[:0]
    counts: list[Any] = [None] * torch_dist.get_world_size()
    torch_dist.all_gather_object(counts, rows.shape[0])
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: rows.shape[0]] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    torch_dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def all_reduce(values: Tensor, how: str) -> Tensor:
    """Reduce float64 values over ranks on the CPU; how: sum | max | min.

    In a sum, of ranks that hold the same rows only the first counts.
    """
    values = values.detach().to("cpu", torch.float64, copy=True)
    if _several():
        if how == "sum" and is_duplicate():
            values.zero_()
        operation = {
            "sum": torch_dist.ReduceOp.SUM,
            "max": torch_dist.ReduceOp.MAX,
            "min": torch_dist.ReduceOp.MIN,
        }
        torch_dist.all_reduce(values, operation[how])
    return values


def all_true(flag: bool) -> bool:
    """Whether the flag is set on every rank."""
    return bool(all_reduce(torch.tensor([float(flag)]), "min")[0])


def any_true(flag: bool) -> bool:
    """Whether the flag is set on some rank."""
    return bool(all_reduce(torch.tensor([float(flag)]), "max")[0])


def broadcast_object(value: Any) -> Any:
    """Rank 0's value, on every rank (plain Python objects between our own processes)."""
    if not _several():
        return value
    box = [value]
    torch_dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    """Wait for every rank."""
    if _several():
        torch_dist.barrier()
