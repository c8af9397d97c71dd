"""Which prompts are taken, and what names their noise."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from rlvis import schema as S
from rlvis.data.prompts import load_prompts
from rlvis.data.world import language
from rlvis.evaluation.prompts import data_of, noise_key, prepare, spread
from tests import setting


def config(tmp_path: Path, **eval: object) -> S.Config:
    settings = setting.config(tmp_path)
    settings.eval = S.EvalConfig(**{"suite": "shapes", **eval})  # type: ignore[arg-type]
    return settings


def test_prompts_are_spread_evenly_over_kinds_and_inside_each() -> None:
    kinds = ["a"] * 6 + ["b"] * 2 + ["c"] * 6
    positions = spread(kinds, 9)
    assert Counter(kinds[i] for i in positions) == {"a": 3, "b": 2, "c": 4}
    assert positions == [0, 2, 4, 6, 7, 8, 9, 11, 12]
    assert spread(kinds, None) == spread(kinds, 14) == list(range(14))
    with pytest.raises(ValueError, match=r"type eval\.prompts=14"):
        spread(kinds, 15)


@pytest.mark.parametrize("count", range(1, 30))
def test_as_many_as_asked_for_and_none_twice(count: int) -> None:
    kinds = ["a"] * 17 + ["b"] + ["c"] * 4 + ["d"] * 7
    positions = spread(kinds, count)
    assert len(positions) == len(set(positions)) == count


def test_held_out_prompts_are_none_of_the_training_ones(tmp_path: Path) -> None:
    held = prepare(config(tmp_path, prompts=12))
    assert held.batch.rows == 12
    assert not set(held.batch.texts) & set(language.prompts("train"))
    assert set(held.kinds) == {"single", "size", "count", "relation"}
    assert [language.parse(text).kind for text in held.batch.texts] == list(held.kinds)
    only = prepare(config(tmp_path, kinds=["single"]))
    assert set(only.kinds) == {"single"}


def test_noise_is_named_by_prompt_and_sample_alone() -> None:
    keys = {noise_key(text, meta, k) for text in ("a", "b") for meta in ({}, {"n": 1}) for k in range(3)}
    assert len(keys) == 12
    assert all(0 <= key < 2**63 for key in keys)
    assert noise_key("a", {"x": 1, "y": 2}, 0) == noise_key("a", {"y": 2, "x": 1}, 0)
    # The numbers themselves, so that evaluations stay comparable over versions.
    assert noise_key("a red circle", {}, 0) == 7544424898119522521


def test_a_file_of_its_own_is_read_whole_and_a_folder_by_its_split(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("one\ntwo\n")
    settings = config(tmp_path, suite="none", path=str(tmp_path / "own.txt"))
    settings.eval.terms["jpeg"] = S.RewardTerm("jpeg_compressibility")
    settings.data.source, settings.data.path = "txt", "train.txt"
    assert prepare(settings).batch.texts == ("one", "two")
    settings.eval.path = str(tmp_path)
    assert (data_of(settings).path, data_of(settings).split) == (str(tmp_path), "heldout")


def test_the_held_out_share_of_a_file_is_what_training_leaves_out(tmp_path: Path) -> None:
    lines = [f"a thing number {i}" for i in range(300)]
    (tmp_path / "all.txt").write_text("\n".join(lines))
    settings = config(tmp_path, suite="none")
    settings.eval.terms["jpeg"] = S.RewardTerm("jpeg_compressibility")
    settings.data = S.DataConfig(source="txt", path=str(tmp_path / "all.txt"), heldout=0.1, drop="7")
    held, trained = prepare(settings).batch.texts, load_prompts(settings.data).texts
    assert len(held) > 10
    assert sorted(held + trained) == sorted(line for line in lines if "7" not in line)
    settings.eval.path = settings.data.path  # a file of its own is read whole, with what training filters out
    assert prepare(settings).batch.texts == tuple(lines)


def test_an_evaluation_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="type eval=shapes"):
        prepare(config(tmp_path, suite="none"))
    wrong = config(tmp_path)
    wrong.eval.terms["x"] = S.RewardTerm("jpeg_compresibility")
    with pytest.raises(ValueError, match=r"eval\.terms\.x\.scorer.*did you mean jpeg_compressibility"):
        prepare(wrong)
