"""groups/: which samples and groups are chosen, what their pictures look like, how ranks share the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rlvis.observe import extremes, video
from rlvis.records import PromptBatch, Rewards

P, K = 3, 4
PROMPTS = PromptBatch(
    index=torch.tensor([17, 4, 1234]), texts=("a", "b", "c"), metadata=tuple({} for _ in range(P))
)


def rewards() -> Rewards:
    """0, 1, ... 11 by place, with the largest one invalid."""
    term = torch.arange(P * K, dtype=torch.float64).view(P, K, 1)
    valid = torch.ones(P, K, dtype=torch.bool)
    valid[2, 3] = False
    return Rewards(term=term, names=("r",), weights=(2.0,), valid=valid, latency=(0.0,))


def pictures(frames: int = 1, side: int = 8) -> dict[tuple[int, int], torch.Tensor]:
    """A picture of one grey for each place: 10 times its number."""
    grey = torch.arange(P * K, dtype=torch.uint8) * 10
    media = grey.view(-1, 1, 1, 1, 1).expand(-1, frames, 3, side, side).contiguous()
    return {(i // K, i % K): media[i] for i in range(P * K)}


def group(prompt: int, weight: float, mean: float | None = 0.5) -> dict[str, Any]:
    numbers = {"std": 0.1, "prior_mean": None, "prior_var": float("inf")}
    return {"prompt": prompt, "text": "t", "objective": "sum", "weight": weight, "mean": mean, **numbers}


def write(folder: Path, local: Any, *, groups: Any = (), maps: Any = None, is_main: bool = True) -> Path:
    return extremes.write(
        folder, 20, PROMPTS, rewards(), local, list(groups), maps, is_main=is_main, barrier=lambda: None
    )


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "index.json").read_text(), parse_constant=pytest.fail)


def test_best_and_worst(tmp_path: Path) -> None:
    folder = write(tmp_path, pictures())
    assert folder == tmp_path / "groups" / "step_000020"
    index = read(folder)
    assert [s["reward"] for s in index["best"]] == [20.0, 18.0, 16.0, 14.0]  # weighted; 11 is not valid
    assert [s["reward"] for s in index["worst"]] == [0.0, 2.0, 4.0, 6.0]
    assert index["best"][0] == {
        "file": "p1234_s02.png",
        "prompt": 1234,
        "sample": 2,
        "text": "c",
        "reward": 20.0,
        "terms": {"r": 10.0},
    }
    assert index["step"] == 20
    assert index["most_trusted"] == index["least_trusted"] == index["maps"] == []
    assert {p.name for p in folder.glob("*.png")} == {s["file"] for s in index["best"] + index["worst"]}
    with Image.open(folder / "p017_s01.png") as picture:
        assert picture.size == (128, 128)  # enlarged by a whole factor
        assert picture.getpixel((127, 0)) == (10, 10, 10)


def test_few_samples_are_never_best_and_worst_at_once(tmp_path: Path) -> None:
    few = rewards()
    valid = torch.zeros(P, K, dtype=torch.bool)
    valid[0, :3] = True
    few = few.replace(valid=valid)
    extremes.write(tmp_path, 20, PROMPTS, few, pictures(), [], None, is_main=True, barrier=lambda: None)
    index = read(tmp_path / "groups" / "step_000020")
    assert len(index["best"]) == 3
    assert index["worst"] == []


def test_trusted_groups_show_their_members(tmp_path: Path) -> None:
    groups = [group(17, 1.2), group(4, 0.7), group(1234, 1.0, None)]
    index = read(write(tmp_path, pictures(), groups=groups))
    assert [(g["prompt"], g["weight"]) for g in index["most_trusted"]] == [(17, 1.2), (4, 0.7)]
    assert index["least_trusted"] == []  # two groups with a reward, and both are shown
    one = index["most_trusted"][0]
    assert [s["sample"] for s in one["samples"]] == [0, 1, 2, 3]
    assert one["prior_mean"] is None
    assert one["prior_var"] == "Infinity"
    more = [group(17, 1.2), group(4, 0.7), group(1234, 0.9)]
    index = read(write(tmp_path / "more", pictures(), groups=more))
    assert [g["prompt"] for g in index["most_trusted"]] == [17, 1234]
    assert [g["prompt"] for g in index["least_trusted"]] == [4]
    assert (tmp_path / "more" / "groups" / "step_000020" / "p004_s03.png").exists()


def test_two_ranks_write_what_one_writes(tmp_path: Path) -> None:
    """Each its own rows, the second before the first, which writes the index."""
    local = pictures()
    whole = write(tmp_path / "one", local, groups=[group(17, 1.0)])
    first = {place: local[place] for place in list(local)[:5]}
    write(
        tmp_path / "two",
        {p: v for p, v in local.items() if p not in first},
        groups=[group(17, 1.0)],
        is_main=False,
    )
    parts = tmp_path / "two" / "groups" / "step_000020"
    assert not (parts / "index.json").exists()
    write(tmp_path / "two", first, groups=[group(17, 1.0)])
    assert {p.name: p.read_bytes() for p in whole.iterdir()} == {
        p.name: p.read_bytes() for p in parts.iterdir()
    }


def test_maps_and_clips(tmp_path: Path) -> None:
    maps = {place: torch.rand(2, 4, 4) for place in pictures()}
    index = read(write(tmp_path, pictures(frames=4), maps=maps))
    ending = ".mp4" if video.playable() else ".gif"
    assert [m["sample"] for m in index["maps"]] == [2, 1, 0, 1]  # two of the best, two of the worst
    shown = index["maps"][0]
    assert (shown["file"], shown["map"]) == (f"p1234_s02{ending}", f"p1234_s02_map{ending}")
    for name in (shown["file"], shown["map"]):
        assert (tmp_path / "groups" / "step_000020" / name).stat().st_size > 0
    still = read(write(tmp_path / "still", pictures(), maps={p: m[:1] for p, m in maps.items()}))
    with Image.open(tmp_path / "still" / "groups" / "step_000020" / still["maps"][0]["map"]) as picture:
        assert picture.size == (3 * 128 + 4, 128)


def test_thumbnails_are_small_and_apart() -> None:
    media = torch.randint(0, 256, (2, 40, 3, 100, 200), dtype=torch.uint8)
    kept = extremes.thumbnails(media)
    assert kept.shape == (2, 16, 3, 64, 128)
    wanted = media[:, [0, 39]].float().mean((-1, -2))
    torch.testing.assert_close(kept[:, [0, 15]].float().mean((-1, -2)), wanted, atol=1.0, rtol=0)  # rounding
    small = torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8)
    copy = extremes.thumbnails(small)
    small.fill_(9)
    assert not copy.any()
