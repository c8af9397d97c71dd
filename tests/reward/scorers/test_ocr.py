"""Text in pictures: read for real from drawn text; what cannot be judged is invalid and never 0."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rlvis.reward.scorers import ocr
from rlvis.reward.scorers.ocr import Ocr


def drawn(text: str) -> Tensor:
    """A picture uint8 [3, 64, 256] of the text."""
    image = Image.new("RGB", (256, 64), "white")
    ImageDraw.Draw(image).text((12, 12), text, fill="black", font=ImageFont.load_default(32))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_drawn_text_is_read() -> None:
    pytest.importorskip("rapidocr")
    images = torch.stack([drawn("Hello World"), drawn("Hella Word"), drawn("")])[:, None]
    scores = Ocr(threads=1)(images, ['a sign "Hello World"'] * 3, [{}] * 3)
    assert scores.valid.all()
    torch.testing.assert_close(scores.value, torch.tensor([1.0, 0.8, 0.0]).double())


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Ocr:
    """A scorer whose reader finds, on a picture of one level, as many letters a; level 9 breaks it."""

    def read(pixels: np.ndarray) -> list[str]:
        if pixels.flat[0] == 9:
            raise RuntimeError("the engine died")
        return ["a"] * int(pixels.flat[0])

    monkeypatch.setattr(ocr, "reader", lambda confidence, threads: read)
    return Ocr()


def levels(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.uint8)[:, :, None, None, None].expand(-1, -1, 3, 4, 4).contiguous()


def test_what_cannot_be_judged_is_invalid(scripted: Ocr, caplog: pytest.LogCaptureFixture) -> None:
    prompts = ['"aaaa"', '"aaaa"', "no quotes", '" "']
    with caplog.at_level(logging.WARNING):
        scores = scripted(levels([2], [9], [2], [2]), prompts, [{}] * 4)
    assert scores.valid.tolist() == [True, False, False, False]
    assert float(scores.value[0]) == 0.5
    assert "3 of 4 samples are invalid: RuntimeError: the engine died" in caplog.text


def test_clips_are_read_every_fourth_frame(scripted: Ocr) -> None:
    clip = levels([4, 9, 9, 9, 1, 9, 9, 9, 0])  # similarities 1, 1/4 and 0, which does not count
    assert float(scripted(clip, ['"aaaa"'], [{}]).value) == pytest.approx(0.625)
    assert float(scripted(levels([0, 0]), ['"aaaa"'], [{}]).value) == 0
    longer = levels([5], [5])  # a picture may say more, the frames of a clip may not
    assert scripted(longer, ['"aaaa"'] * 2, [{}] * 2).value.tolist() == [1, 1]
    assert float(scripted(levels([5, 5]), ['"aaaa"'], [{}]).value) == 0.75


def test_the_target_may_be_a_field(scripted: Ocr) -> None:
    scripted.field = "target"
    scores = scripted(levels([2], [2]), ["x", '"aa"'], [{"target": "A a"}, {}])
    assert scores.valid.tolist() == [True, False]
    assert float(scores.value[0]) == 1


def test_a_missing_reader_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ValueError, match=r"pip install 'rlvis\[ocr\]'"):
        Ocr()


@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_distance_is_a_metric_of_single_edits(a: str, b: str, c: str) -> None:
    assert ocr.distance(a, b) == ocr.distance(b, a)
    assert (ocr.distance(a, b) == 0) == (a == b)
    assert ocr.distance(a, c) <= ocr.distance(a, b) + ocr.distance(b, c)
    assert ocr.distance(a + "x" + b, a + b) == ocr.distance(a + "x" + b, a + "y" + b) == 1
