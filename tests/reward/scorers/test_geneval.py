"""GenEval-style scores: the rules' corners, boxes that count, colours by CLIP, and any zero-shot detector."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from rlvis.data.world import draw
from rlvis.reward.facts import fit
from rlvis.reward.judging import geneval_rules
from rlvis.reward.scorers import geneval
from rlvis.reward.scorers.geneval import Geneval
from tests.reward.scorers import tiny_detectors

LOW = {"threshold": 1e-3, "counting_threshold": 1e-3}
CAT = {"tag": "single_object", "include": [{"class": "cat", "count": 1}]}


def opened(folder: Path, **kwargs: Any) -> Geneval:
    return Geneval(str(folder), clip="asset:tiny_clip", clip_pretrained=None, device="cpu", **kwargs)


@pytest.fixture(scope="module")
def owlv2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_detectors.owlv2(tmp_path_factory.mktemp("owlv2"))


def pictures(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 40, 64), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("make", [tiny_detectors.owlv2, tiny_detectors.grounding_dino])
def test_any_detector_finds_what_transformers_finds(make: Callable[[Path], Path], tmp_path: Path) -> None:
    scorer = opened(make(tmp_path), query="a {}", batch=3, **LOW)
    images, names = pictures(4), ["cat", "cat dog", "cat", "dog"]  # of unequal lengths, in one batch
    tables = scorer.detect(list(images), names)
    assert sum(len(boxes) for boxes in tables) > 4
    for image, name, boxes in zip(images, names, tables, strict=True):
        torch.testing.assert_close(scorer.detect([image], [name])[0], boxes, atol=1e-4, rtol=1e-4)
        stock = Image.fromarray(image.permute(1, 2, 0).numpy())
        inputs = scorer.processor(images=stock, text=[[f"a {name}"]], return_tensors="pt")
        with torch.no_grad():
            outputs = scorer.model(**inputs)
        result = scorer.processor.post_process_grounded_object_detection(
            outputs, threshold=1e-3, target_sizes=[(40, 64)]
        )[0]
        inside = result["boxes"].clamp(torch.zeros(4), torch.tensor([64, 40, 64, 40]))
        keep = (inside[:, 2:] - inside[:, :2] >= 1).all(1)
        expected = torch.cat([inside, result["scores"][:, None]], dim=1)[keep]
        torch.testing.assert_close(boxes, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture
def scripted(owlv2: Path, monkeypatch: pytest.MonkeyPatch) -> Geneval:
    """A scorer that finds, on a picture of level n, n cats of score 0.5 next to each other and a sure dog."""
    scorer = opened(owlv2)

    def detect(images: list[Tensor], names: list[str]) -> list[Tensor]:
        cats = [torch.tensor([[8.0 * k, 0, 8 * k + 6, 6, 0.5] for k in range(int(i.max()))]) for i in images]
        dog = torch.tensor([[40.0, 20, 60, 40, 0.95]])
        return [c.reshape(-1, 5) if n == "cat" else dog for c, n in zip(cats, names, strict=True)]

    monkeypatch.setattr(scorer, "detect", detect)
    return scorer


def levels(*rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.uint8)[:, :, None, None, None].expand(-1, -1, 3, 40, 64)


def value(scorer: Geneval, images: Tensor, *metadata: dict[str, Any]) -> list[float]:
    scores = scorer(images, [""] * len(metadata), metadata)
    assert scores.valid.all()
    return scores.value.tolist()


def test_the_three_measures(scripted: Geneval) -> None:
    images = levels([1], [0], [3])
    assert value(scripted, images, CAT, CAT, CAT) == [1, 0, -1]
    scripted.measure = "strict"
    assert value(scripted, images, CAT, CAT, CAT) == [1, 0, 0]
    scripted.measure = "eval"
    assert value(scripted, images, CAT, CAT, CAT) == [1, 0, 1]
    without = CAT | {"exclude": [{"class": "dog", "count": 1}]}
    assert value(scripted, images[:1], without) == [0]


def test_counting_has_its_own_threshold(scripted: Geneval) -> None:
    counting = CAT | {"tag": "counting"}  # cats score 0.5, and 0.9 is asked
    assert value(scripted, levels([1], [1]), CAT, counting) == [1, 0]


def test_positions_and_frames(scripted: Geneval) -> None:
    asked = {
        "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["left of", 0]}]
    }
    wrong = {
        "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["below", 0]}]
    }
    assert value(scripted, levels([1], [1]), asked, wrong) == [1, 0.75]
    assert value(scripted, levels([1, 3]), CAT) == [0]  # the mean of 1 and -1


def test_prompts_without_clauses_are_invalid(scripted: Geneval, caplog: pytest.LogCaptureFixture) -> None:
    broken = {"include": [{"class": "cat", "count": 1, "position": ["left of", 3]}]}
    metadata = [CAT, {}, {"include": [{"class": "cat", "count": 0}]}, broken]
    with caplog.at_level(logging.WARNING):
        scores = scripted(levels([1], [1], [1], [1]), [""] * 4, metadata)
    assert scores.valid.tolist() == [True, False, False, False]
    assert "3 of 4 samples are invalid: metadata [] has no include clauses" in caplog.text


def test_colours_are_clips(owlv2: Path) -> None:
    scorer = opened(owlv2)
    asked = {"red": "circle", "blue": "square"}  # of which the embedded judge is sure in any phrase
    prompts = [f"a {colour} {name}" for colour, name in asked.items()]
    drawn = (draw.render(prompts, torch.Generator().manual_seed(0)) * 255).round().to(torch.uint8)
    whole = [0.0, 0, drawn.shape[-1], drawn.shape[-1], 1]
    for picture, (colour, name) in zip(drawn, asked.items(), strict=True):
        assert scorer.colours(picture, name, [whole]) == [colour]


def test_boxes_that_count() -> None:
    cats = torch.tensor(
        [[0, 0, 10, 10, 0.5], [1, 0, 11, 10, 0.9], [20, 0, 30, 10, 0.3], [40, 0, 50, 10, 0.6]]
    )
    dogs = torch.tensor([[0, 1, 10, 11, 0.8]])
    detections = {"cat": cats, "dog": dogs}
    everything = geneval.select(detections, 0.3, 1.0, 16)
    assert [box[4] for box in everything["cat"]] == pytest.approx([0.9, 0.6, 0.5])
    apart = geneval.select(detections, 0.3, 0.5, 16)
    assert list(apart) == ["cat"]  # the dog lies on the surer cat
    assert [box[0] for box in apart["cat"]] == [1, 40]
    assert len(geneval.select(detections, 0.1, 1.0, 2)["cat"]) == 2


def test_what_is_cut_out_lies_on_grey() -> None:
    picture = torch.full((3, 20, 30), 7, dtype=torch.uint8)
    piece = geneval.crop(picture, [4.4, 5, 24.4, 9, 1])
    assert piece.shape == (3, 20, 20)
    assert (piece == 7).sum() == 3 * 20 * 4
    assert (piece[:, 0] == 0x99).all()
    assert (piece[:, 8:12] == 7).all()
    assert geneval.crop(picture, [29.9, 19.9, 29.9, 19.9, 1]).shape == (3, 1, 1)


def test_nearly_coinciding_things_have_no_position() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    assert geneval_rules.position(box, [1.0, 1.0, 11.0, 11.0]) == set()
    assert geneval_rules.position(box, [50.0, 50.0, 60.0, 60.0]) == {"left of", "above"}
    assert geneval_rules.position([0.0, 50.0, 10.0, 60.0], box) == {"below"}


def test_arguments_and_models_that_do_not_fit_are_named(owlv2: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"query='a cat' has no \{\}, where the class is put"):
        fit("geneval", {"path": str(owlv2), "query": "a cat"}, "t")
    (tmp_path / "config.json").write_text('{"model_type": "clip"}', encoding="utf-8")
    with pytest.raises(ValueError, match="is no open-vocabulary detector"):
        opened(tmp_path)
