"""The moving average: numbers by hand, and a swap that leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlvis.models.ema import Ema


class Holder:
    """As much of a policy as the average needs."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.module = nn.Linear(3, 2, dtype=dtype)

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.module.named_parameters())


def weights(value: float) -> dict[str, Tensor]:
    return {"w": torch.tensor([value])}


def test_three_steps_by_hand() -> None:
    average = Ema(weights(1.0), decay=0.15)
    average.update(weights(0.0))  # decay min(.15, 1/10) = .1
    assert float(average.weights["w"]) == pytest.approx(0.1, abs=1e-7)
    average.update(weights(1.0))  # min(.15, 2/11) = .15: .015 + .85
    assert float(average.weights["w"]) == pytest.approx(0.865, abs=1e-7)
    average.update(weights(0.0))  # .15 again
    assert float(average.weights["w"]) == pytest.approx(0.12975, abs=1e-7)


def test_an_average_each_other_step_warms_up_by_averages() -> None:
    average = Ema(weights(1.0), decay=0.9, every=2)
    average.update(weights(5.0))  # not its turn
    assert float(average.weights["w"]) == 1.0
    average.update(weights(0.0))  # the first average: 1/10
    assert float(average.weights["w"]) == pytest.approx(0.1, abs=1e-7)

    def unread() -> Any:
        raise AssertionError("masters are gathered only when they are used")
        yield

    average.update(unread())
    assert average.steps == 3
    average.update(weights(1.0))  # the second: 2/11 of 0.1
    assert float(average.weights["w"]) == pytest.approx(0.1 * 2 / 11 + 9 / 11, abs=1e-6)


def test_what_is_read_has_the_steps_since_the_last_average() -> None:
    """4 steps of an average each 8: what they learned is read, and the average goes on as if it were not."""
    read, unread = Ema(weights(1.0), decay=0.9, every=8), Ema(weights(1.0), decay=0.9, every=8)
    for step in range(11):
        for average in (read, unread):
            average.update(weights(step / 10))
        now = float(dict(read.current(weights(step / 10)))["w"])
        if step == 3:
            assert now == pytest.approx(0.1 * 1.0 + 0.9 * 0.3, abs=1e-7)
        if step == 7:
            assert now == float(read.weights["w"]) == pytest.approx(0.1 + 0.9 * 0.7, abs=1e-6)
        if step == 10:
            assert now == pytest.approx(0.73 * 2 / 11 + 1.0 * 9 / 11, abs=1e-6)
    assert torch.equal(read.weights["w"], unread.weights["w"])
    holder: Any = Holder()
    start = {name: p.detach().clone() for name, p in holder.trainable()}
    average = Ema(start, decay=0.9, every=8)
    for _, parameter in holder.trainable():
        parameter.data.add_(1)
    average.update({})
    with average.swapped(holder):
        assert all(torch.allclose(p, start[n] + 0.9, atol=1e-6) for n, p in holder.trainable())
    assert all(torch.allclose(p, start[n] + 1, atol=1e-6) for n, p in holder.trainable())


def test_the_start_is_a_copy_in_float32() -> None:
    start = {"w": torch.ones(2, dtype=torch.bfloat16)}
    average = Ema(start.items(), decay=0.9)
    start["w"].zero_()
    assert average.weights["w"].tolist() == [1.0, 1.0]
    assert average.weights["w"].dtype == torch.float32


def test_resuming_gives_the_same_numbers() -> None:
    one = Ema(weights(1.0), decay=0.9, every=2)
    for value in (0.3, 0.1, 0.7):
        one.update(weights(value))
    saved = {"steps": one.state_dict()["steps"], "weights": {"w": one.weights["w"].clone()}}
    other = Ema(weights(0.0), decay=0.9, every=2)
    other.load_state_dict(saved)
    for average in (one, other):
        average.update(weights(0.25))
    assert torch.equal(one.weights["w"], other.weights["w"])
    with pytest.raises(ValueError, match="other names or shapes"):
        Ema({"v": torch.zeros(1)}, decay=0.9).load_state_dict(saved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_swapped_restores_every_bit_even_after_an_error(dtype: torch.dtype) -> None:
    holder: Any = Holder(dtype)
    before = {name: p.detach().clone() for name, p in holder.trainable()}
    pointers = [p.data_ptr() for _, p in holder.trainable()]
    average = Ema(
        {name: torch.full_like(p, 0.1, dtype=torch.float32) for name, p in before.items()}, decay=0.9
    )

    def look() -> None:
        with average.swapped(holder):
            assert torch.equal(holder.module.bias, torch.full((2,), 0.1, dtype=dtype))
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        look()
    assert all(torch.equal(before[name], p) for name, p in holder.trainable())
    assert [p.data_ptr() for _, p in holder.trainable()] == pointers  # an engine keeps its views
    assert all(p.requires_grad for _, p in holder.trainable())


def test_swapped_goes_through_an_engine_when_asked() -> None:
    masters = {"w": torch.tensor([0.123456789])}
    average = Ema(weights(5.0), decay=0.9)

    def write(value_of: Callable[[str], Tensor]) -> None:
        masters["w"].copy_(value_of("w"))

    holder: Any = Holder()
    before = masters["w"].clone()
    with average.swapped(holder, read=lambda: masters.items(), write=write):
        assert masters["w"].tolist() == [5.0]
    assert torch.equal(masters["w"], before)
    with pytest.raises(ValueError, match="both"), average.swapped(holder, write=write):
        pass


def test_other_names_and_settings_are_refused() -> None:
    average = Ema(weights(1.0), decay=0.9)
    with pytest.raises(ValueError, match="no weight named v"):
        average.update({"v": torch.zeros(1)})
    with pytest.raises(ValueError, match="0 of 1"):
        average.update({})
    with pytest.raises(ValueError, match=r"decay=1\.0"):
        Ema(weights(1.0), decay=1.0)
    with pytest.raises(ValueError, match="every=0"):
        Ema(weights(1.0), decay=0.9, every=0)
