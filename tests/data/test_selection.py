"""Which prompts stay: filters, duplicates and the held-out part, all counted."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvis.data.prompts import PromptSet, describe, load_prompts
from rlvis.data.selection import ascii_share, content_hash, normalised, quoted
from rlvis.schema import DataConfig

WORDS = ("red", "green", "blue", "round", "square", "small", "large", "old", "new", "far")


def load(lines: list[str], folder: Path, **changes: Any) -> PromptSet:
    path = folder / "p.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_prompts(
        DataConfig(source="txt", path=str(path), prompts_per_step=1, samples_per_prompt=2, **changes)
    )


def many(count: int) -> list[str]:
    return [f"a {WORDS[i % 10]} thing number {i}" for i in range(count)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A red Fox.", "a red fox"),
        ("a  red\tfox", "a red fox"),
        ("a red \u00a0fox !", "a red fox"),
        ("caf\u00e9", "cafe\u0301"),
        ("\uff21 fox", "a fox"),  # full-width letter
        ("STRASSE", "stra\u00dfe"),
    ],
)
def test_spellings_of_one_prompt(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


def test_other_prompts_stay_apart() -> None:
    texts = ["a red fox", "a red, fox", "a redfox", "a r\u00e9d fox", "...", "!!!"]
    assert len({normalised(text) for text in texts}) == len(texts)


def test_duplicates_are_dropped_and_counted_by_kind(tmp_path: Path) -> None:
    lines = ["a red fox", "A red fox.", "", "a red fox", "  ", "a blue owl", "\u732b", "a  blue owl"]
    prompts = load(lines, tmp_path)
    assert prompts.texts == ("a red fox", "a blue owl", "\u732b")
    assert (prompts.empty, prompts.duplicates, prompts.tally.near) == (2, 1, 2)
    assert "2 empty rows; 1 duplicates; 2 equal to another but for case" in describe(prompts)


@pytest.mark.parametrize(
    ("changes", "kept", "option"),
    [
        ({"min_words": 3}, [0, 2, 3], "min_words=3"),
        ({"max_words": 3}, [0, 1, 3], "max_words=3"),
        ({"min_ascii": 0.9}, [0, 1, 2], "min_ascii=0.9"),
        ({"drop": r"\bowls?\b|fox"}, [1, 3], "drop=\\bowls?\\b|fox"),
    ],
)
def test_filters(tmp_path: Path, changes: dict[str, Any], kept: list[int], option: str) -> None:
    lines = ["a red FOX", "ring", "two owls in a tree", "\u043b\u0438\u0441 \u0432 \u043b\u0435\u0441\u0443"]
    prompts = load(lines, tmp_path, **changes)
    assert list(prompts.texts) == [lines[i] for i in kept]
    assert prompts.tally.dropped == {option: len(lines) - len(kept)}
    assert f"{len(lines) - len(kept)} by data.{option}" in describe(prompts)


def test_ascii_share() -> None:
    assert (ascii_share("plain"), ascii_share("\u732b"), ascii_share("a\u732b")) == (1.0, 0.0, 0.5)


def test_filters_that_leave_nothing_say_which(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"all of its 3 rows are left out \(1 empty rows; 2 by data\.min_words=9"
    ):
        load(["a fox", "", "an owl"], tmp_path, min_words=9)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ('a sign that says "Open now", and "no"', "Open now"),
        ("a sign \u201cOpen\u201d", "Open"),
        ('12" and more', None),
        ('nothing "" here', None),
        ("plain", None),
    ],
)
def test_quoted_text(text: str, target: str | None) -> None:
    assert quoted(text) == target


def test_quoted_text_becomes_metadata(tmp_path: Path) -> None:
    lines = ['a sign "OPEN"', "a sign", 'a sign "open"']
    prompts = load(lines, tmp_path, quoted="target")
    # The case of a text to be drawn makes another task.
    assert prompts.metadata == ({"target": "OPEN"}, {"target": "open"})
    assert prompts.tally.dropped == {"quoted=target": 1}
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a \\"b\\"", "target": "c"}\n')
    with pytest.raises(ValueError, match=r"there is a column of this name; type data\.quoted=null"):
        load_prompts(
            DataConfig(
                source="jsonl", path=str(path), quoted="target", prompts_per_step=1, samples_per_prompt=2
            )
        )


def test_the_sides_of_the_split_share_nothing_and_lose_nothing(tmp_path: Path) -> None:
    lines = many(2000)
    train = load(lines, tmp_path, heldout=0.1)
    held = load(lines, tmp_path, heldout=0.1, split="heldout")
    assert sorted(train.texts + held.texts) == sorted(lines)
    assert (train.tally.apart, held.tally.apart) == (len(held), len(train))
    assert 160 < len(held) < 240  # 200 +- 13.4, three of them
    assert f"{len(held)} on the other side of data.heldout" in describe(train)


def test_a_prompt_s_side_is_its_own(tmp_path: Path) -> None:
    """Not of the order, the spelling, the other prompts, or the metadata; a larger share only adds."""
    lines = many(500)
    held = set(load(lines, tmp_path, heldout=0.1, split="heldout").texts)
    shuffled = [text.upper() + "." for text in reversed(lines)][:300]
    again = load(shuffled, tmp_path, heldout=0.1, split="heldout").texts
    assert {text.lower().rstrip(".") for text in again} == held & set(lines[200:])
    assert held < set(load(lines, tmp_path, heldout=0.3, split="heldout").texts)
    rows = "".join(json.dumps({"prompt": text, "id": i}) + "\n" for i in range(2) for text in lines)
    path = tmp_path / "p.jsonl"
    path.write_text(rows)
    config = DataConfig(source="jsonl", path=str(path), heldout=0.1, split="heldout")
    assert load_prompts(config).texts == 2 * load(lines, tmp_path, heldout=0.1, split="heldout").texts


def test_the_hash_is_fixed() -> None:
    """Another hash would move prompts between the sides of a split that a checkpoint was trained on."""
    assert content_hash("a red fox") == 4049755206874407142


def test_a_split_without_prompts_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"all of its 3 rows are left out \(3 on the other side of data\.heldout"
    ):
        load(many(3), tmp_path, heldout=0.001, split="heldout")


def test_a_folder_with_a_held_out_file_takes_no_share(tmp_path: Path) -> None:
    for name in ("train", "heldout"):
        (tmp_path / f"{name}.txt").write_text("a fox\n")
    config = DataConfig(source="txt", path=str(tmp_path), heldout=0.1)
    with pytest.raises(ValueError, match=r"a split heldout of its own; type data\.heldout=0"):
        load_prompts(config)
    (tmp_path / "heldout.txt").rename(tmp_path / "validation.txt")
    assert (
        len(load_prompts(DataConfig(source="txt", path=str(tmp_path), heldout=0.1, split="validation"))) == 1
    )


@given(st.text(max_size=40))
def test_any_text_is_normalised_and_hashed(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)
    assert 0 <= content_hash(normalised(text)) < 2**64


def test_many_prompts_take_little_time_and_memory(tmp_path: Path) -> None:
    """20000 here; a million in proportion: seconds, and some hundred bytes each beside the text."""
    lines = many(20_000)
    started = time.process_time()
    prompts = load(lines, tmp_path, heldout=0.02, min_words=2)
    took = time.process_time() - started
    assert len(prompts) + prompts.tally.apart == 20_000
    assert took < 2  # a fifth of a second on a core that nobody shares
    tracemalloc.start()
    load(lines[:5000], tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5000 * 1000
