"""Processes: one needs no launcher and every collective is the identity; several agree on what each had."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvis.runtime import dist
from rlvis.runtime.dist import World
from tests.distributed.launch import free_port, launch

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


@settings(deadline=None)
@given(size=st.integers(1, 70), total=st.integers(0, 500))
def test_ranks_own_every_row_once_in_order_and_about_equally(size: int, total: int) -> None:
    owned = [World(rank=rank, size=size).rows(total) for rank in range(size)]
    assert [row for rows in owned for row in rows] == list(range(total))
    assert max(map(len, owned)) - min(map(len, owned)) <= 1


@given(groups=st.integers(1, 9), together=st.integers(1, 9), total=st.integers(0, 99))
def test_ranks_that_share_tokens_own_the_same_rows_and_one_speaks(
    groups: int, together: int, total: int
) -> None:
    ranks = [World(rank, groups * together, sequence=together) for rank in range(groups * together)]
    for rank in ranks:
        assert rank.rows(total) == World(rank.data_rank, groups).rows(total)
    speakers = [rank for rank in ranks if rank.holds_first]
    assert [rank.data_rank for rank in speakers] == list(range(groups))
    assert [row for rank in speakers for row in rank.rows(total)] == list(range(total))


def test_only_rank_0_leads() -> None:
    assert [World(rank=rank, size=3).is_main for rank in range(3)] == [True, False, False]


def test_environment_is_read_from_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert dist.environment() == (0, 1, 0)
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert dist.environment() == (5, 8, 1)


def test_cuda_without_a_gpu_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"torch sees no GPU; type engine\.device=cpu"):
        dist.start("cuda")


def test_one_process_starts_without_a_launcher_and_can_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for _ in range(2):
        assert dist.start("cpu") == World(0, 1, 0, torch.device("cpu"))
        assert torch.distributed.is_initialized()
        dist.stop()
        assert not torch.distributed.is_initialized()
    dist.stop()  # once more does no harm


def test_one_process_collectives_are_the_identity() -> None:
    rows = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(dist.all_gather_rows(rows), rows)
    assert not dist.all_gather_rows(rows).requires_grad
    values = torch.tensor([1.0, -2.5])
    for how in ("sum", "max", "min"):
        reduced = dist.all_reduce(values, how)
        assert reduced.dtype == torch.float64
        assert torch.equal(reduced, values.double())
    double = values.double()
    dist.all_reduce(double, "sum").zero_()
    assert double[1] == -2.5  # never the caller's own memory
    assert [dist.any_true(flag) for flag in (True, False)] == [True, False]
    assert [dist.all_true(flag) for flag in (True, False)] == [True, False]
    value = {"a": 1}
    assert dist.broadcast_object(value) is value
    dist.barrier()


def mine(rank: int, dtype: torch.dtype) -> torch.Tensor:
    """Rank r's rows: r of them, so rank 0 has none; their values name rank, row and column."""
    cells = torch.arange(rank * 2).view(rank, 2) + 10 * rank
    return cells % 2 == 0 if dtype == torch.bool else cells.to(dtype)


def run_collectives(world: World, port_of_two: int) -> list[dict[str, object]]:
    """On each rank: everything once with all ranks; then rank 2 leaves and the others start anew, as two."""
    rounds = [collect(world)]
    dist.stop()
    if world.rank < 2:
        os.environ.update(WORLD_SIZE="2", MASTER_PORT=str(port_of_two))
        rounds.append(collect(dist.start("cpu")))
    return rounds


def collect(world: World) -> dict[str, object]:
    rank = world.rank
    dist.barrier()
    exact = torch.tensor([2.0**-40, -1.0], dtype=torch.float64) * (
        rank + 1
    )  # a float32 sum with 1 would lose 2^-40
    wide = torch.arange(12.0).view(2, 6)[:, rank : rank + 2]  # not contiguous
    return {
        "size": world.size,
        "rows": [dist.all_gather_rows(mine(rank, dtype)) for dtype in DTYPES],
        "wide": dist.all_gather_rows(wide),
        "none": dist.all_gather_rows(torch.zeros(0, 3)),
        "reduced": {how: dist.all_reduce(exact + (how == "sum"), how) for how in ("sum", "max", "min")},
        "any": [dist.any_true(rank == 1), dist.any_true(False)],
        "all": [dist.all_true(rank != 1), dist.all_true(True)],
        "object": dist.broadcast_object({"folder": f"run {rank}"}),
    }


def test_several_processes_agree() -> None:
    """Three, and then two of them after leaving and joining again."""
    rounds = launch(run_collectives, 3, free_port())
    assert [len(r) for r in rounds] == [2, 2, 1]
    for results in ([r[0] for r in rounds], [r[1] for r in rounds[:2]]):
        size = len(results)
        for got in results:
            assert got["size"] == size
            for dtype, rows in zip(DTYPES, got["rows"], strict=True):
                wanted = torch.cat([mine(rank, dtype) for rank in range(size)])
                assert rows.dtype == dtype
                assert torch.equal(rows, wanted)
            whole = torch.arange(12.0).view(2, 6)
            assert torch.equal(got["wide"], torch.cat([whole[:, r : r + 2] for r in range(size)]))
            assert got["none"].shape == (0, 3)
            count = size * (size + 1) / 2
            assert got["reduced"]["sum"].tolist() == [size + count * 2.0**-40, size - count]
            assert got["reduced"]["max"].tolist() == [size * 2.0**-40, -1.0]
            assert got["reduced"]["min"].tolist() == [2.0**-40, -float(size)]
            assert got["any"] == [True, False]
            assert got["all"] == [False, True]
            assert got["object"] == {"folder": "run 0"}
