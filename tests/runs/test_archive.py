"""Records on disk: what W ranks wrote, any number of ranks can read; anything less or other is refused."""

import re
from pathlib import Path

import pytest
import torch

from rlvis.record_base import equal
from rlvis.records import Schedule, Trajectories
from rlvis.runs import archive
from rlvis.runtime.dist import World

P, K = 3, 4
SIGMA = torch.tensor([1.0, 0.5, 0.0])


def rollout(prompts: int = P, samples: int = K, seed: int = 0) -> Trajectories:
    """Rows in the order (prompt, sample), each with states of its own."""
    n = prompts * samples
    generator = torch.Generator().manual_seed(seed)
    return Trajectories(
        prompt=torch.arange(prompts).repeat_interleave(samples),
        sample=torch.arange(samples).repeat(prompts),
        states=torch.randn(n, 2, 4, 1, 2, 2, generator=generator).bfloat16(),
        at=torch.zeros(n, 1, dtype=torch.int64),
        step=torch.zeros(n, 1, dtype=torch.int64),
        logprob=torch.randn(n, 1, 1, 2, 2, generator=generator),
        free=torch.ones(1, 2, 2),
        media=torch.randint(0, 256, (n, 1, 3, 4, 4), generator=generator, dtype=torch.uint8),
        schedule=Schedule(sigma=SIGMA, alpha=1 - SIGMA, time=SIGMA[:-1] * 1000),
        channel_reduction="mean",
        seed=seed,
        policy_step=5,
    )


def write(folder: Path, whole: Trajectories, size: int) -> None:
    for rank in range(size):
        world = World(rank=rank, size=size)
        archive.save_local(whole.take(world.rows(whole.rows)), folder, "trajectories", world)


def test_folders_of_steps_are_named_and_found_in_order(tmp_path: Path) -> None:
    for step in (12, 3, 100_000):
        archive.step_folder(tmp_path, step).mkdir()
    for other in ("step_7", "step_0000007", "step_00000x", "notes"):
        (tmp_path / other).mkdir()
    assert archive.step_folder(tmp_path, 3).name == "step_000003"
    assert archive.steps(tmp_path) == [3, 12, 100_000]


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_folder_without_steps_says_how_to_write_some(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"holds no step_NNNNNN folder; write some with stage=rollout"):
        archive.steps(tmp_path / name)


@pytest.mark.parametrize("writers", [1, 2, 5, 11])
@pytest.mark.parametrize("readers", [1, 3, 12])
def test_any_number_of_ranks_reads_what_any_number_wrote(tmp_path: Path, writers: int, readers: int) -> None:
    """11 writers also sort 10of11 after 2of11."""
    whole = rollout()
    write(tmp_path, whole, writers)
    parts = [
        archive.load_trajectories(tmp_path, World(rank=r, size=readers), P * K, K) for r in range(readers)
    ]
    assert [part.rows for part in parts] == [
        len(World(rank=r, size=readers).rows(P * K)) for r in range(readers)
    ]
    assert equal(Trajectories.concatenate(parts), whole)


def test_rows_are_found_by_prompt_and_sample_not_by_place(tmp_path: Path) -> None:
    whole = rollout()
    shuffled = whole.take(torch.randperm(P * K, generator=torch.Generator().manual_seed(0)))
    write(tmp_path, shuffled, 2)
    assert equal(archive.load_trajectories(tmp_path, World(), P * K, K), whole)


def test_a_missing_piece_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"pieces of all ranks of one rollout, found none; .* run stage=rollout"
    ):
        archive.load_trajectories(tmp_path, World(), P * K, K)
    write(tmp_path, rollout(), 3)
    (tmp_path / "trajectories.1of3.json").unlink()
    with pytest.raises(ValueError, match=re.escape("found trajectories.0of3, trajectories.2of3;")):
        archive.load_trajectories(tmp_path, World(), P * K, K)


def test_pieces_of_two_rollouts_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path, rollout(), 2)
    write(tmp_path, rollout(seed=1), 1)
    with pytest.raises(ValueError, match=r"found trajectories\.0of1, .*; empty the folder"):
        archive.load_trajectories(tmp_path, World(), P * K, K)
    for leftover in ("trajectories.0of2.json", "trajectories.0of1.json"):
        (tmp_path / leftover).unlink()
    write(tmp_path, rollout(seed=2), 2)
    rollout(seed=3).take(range(6)).save(tmp_path / "trajectories.0of2")
    with pytest.raises(ValueError, match=r"Trajectories\.seed differs between parts"):
        archive.load_trajectories(tmp_path, World(), P * K, K)


@pytest.mark.parametrize(("prompts", "samples"), [(2, K), (4, K), (4, 3), (2, 6), (6, 2), (P, 2), (P, 5)])
def test_another_batch_than_the_rollouts_is_refused(tmp_path: Path, prompts: int, samples: int) -> None:
    """Also where the counts agree (4 x 3, 2 x 6 and 6 x 2 are 12 too) and only the groups are other ones."""
    write(tmp_path, rollout(), 2)
    wanted = f"holds 12 samples, up to 4 a prompt; wanted {prompts * samples}, {samples} a prompt: data."
    with pytest.raises(ValueError, match=re.escape(wanted)):
        archive.load_trajectories(tmp_path, World(), prompts * samples, samples)


def test_one_group_is_not_read_as_two(tmp_path: Path) -> None:
    """1 x 4 read as 2 x 2: prompt * 2 + sample counts 0 1 2 3 all the same."""
    write(tmp_path, rollout(prompts=1), 1)
    with pytest.raises(ValueError, match=r"holds 4 samples, up to 4 a prompt; wanted 4, 2 a prompt"):
        archive.load_trajectories(tmp_path, World(), 4, 2)


def test_a_sample_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, rollout().take([0, *range(11)]), 1)
    with pytest.raises(ValueError, match=r"holds 12 samples"):
        archive.load_trajectories(tmp_path, World(), P * K, K)
