"""Means over the valid samples do not depend on how they were shared out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlvis.observe import picture_statistics
from rlvis.observe import step_statistics as looks
from rlvis.observe.sentinels import Observation, Watch, judge
from rlvis.schema import SentinelConfig

P, K = 3, 4
PROMPT, SAMPLE = torch.arange(P).repeat_interleave(K), torch.arange(K).repeat(P)


def media(frames: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (P * K, frames, 3, 32, 40), generator=generator).to(torch.uint8)


def rank(samples: Tensor, rows: range, shard: int) -> list[looks.Look]:
    local = samples[rows.start : rows.stop]
    return [looks.look(piece) for piece in local.split(shard)]


@pytest.mark.parametrize("frames", [1, 4])
def test_shards_and_ranks_make_no_difference(frames: int) -> None:
    samples, valid = media(frames), torch.ones(P, K, dtype=torch.bool)
    valid[0, 1] = valid[2, 3] = False
    whole = looks.means(rank(samples, range(12), 12), PROMPT, SAMPLE, valid)
    tables: list[Tensor] = []

    def first_pass(rows: Tensor) -> Tensor:
        tables.append(rows)
        return rows

    cut = (range(0, 5), range(5, 12), range(12, 12))  # groups straddle ranks, and one rank owns nothing
    parts = [rank(samples, rows, 3) for rows in cut[:2]] + [[looks.look(samples[:0])]]
    for rows, local in zip(cut, parts, strict=True):
        at = slice(rows.start, rows.stop)
        looks.means(local, PROMPT[at], SAMPLE[at], valid, first_pass)
    for rows, local in zip(cut, parts, strict=True):
        at = slice(rows.start, rows.stop)
        statistics = looks.means(local, PROMPT[at], SAMPLE[at], valid, lambda _: torch.cat(tables))
        assert statistics == pytest.approx(whole, abs=1e-6)


def test_invalid_samples_are_left_out() -> None:
    samples, valid = media(), torch.zeros(P, K, dtype=torch.bool)
    valid[1, :2] = True
    statistics = looks.means(rank(samples, range(12), 12), PROMPT, SAMPLE, valid)
    local = picture_statistics.statistics(samples[4:6])
    assert statistics["sentinel/saturation"] == pytest.approx(float(local["saturation"].mean()))
    assert "sentinel/diversity" in statistics
    valid[1, 1] = False
    assert "sentinel/diversity" not in looks.means(rank(samples, range(12), 12), PROMPT, SAMPLE, valid)
    assert looks.means(rank(samples, range(12), 12), PROMPT, SAMPLE, torch.zeros_like(valid)) == {}


def test_pictures_that_turn_into_a_red_screen_are_an_alarm() -> None:
    """The whole way from pixels to the alarm, on pictures that a reward for redness would leave."""
    config, valid, watch = SentinelConfig(), torch.ones(P, K, dtype=torch.bool), Watch()
    first: dict[str, int] = {}
    for step in range(1, 31):
        generator = torch.Generator().manual_seed(step)
        coarse = torch.rand(P * K, 3, 5, 5, generator=generator)
        plain = torch.nn.functional.interpolate(coarse, (40, 40), mode="bilinear") * 255
        red = torch.tensor([255.0, 0, 0]).view(3, 1, 1)
        mixed = torch.lerp(plain, red.expand_as(plain), min(1.0, max(0.0, (step - 14) / 12)))
        shard = looks.look(mixed.round().to(torch.uint8)[:, None])
        statistics = looks.means([shard], PROMPT, SAMPLE, valid)
        pictures = {key.removeprefix("sentinel/"): value for key, value in statistics.items()}
        judged = judge(watch, Observation(pictures=pictures), step, config)
        watch = judged.watch
        for alarm in judged.alarms:
            first.setdefault(alarm.name, step)
    assert {"saturation", "colour_entropy", "diversity"} <= first.keys()
    assert 15 < min(first.values()) < 24  # before the screen is red, and not before it begins to be
