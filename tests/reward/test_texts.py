"""Captions once each, and the word in the log when a judge cuts some."""

import logging

import pytest

from rlvis.reward import texts


class Words:
    """A tokenizer of transformers' shape: a token a word."""

    def __call__(self, lines: list[str], truncation: bool, verbose: bool) -> dict[str, list[list[int]]]:
        return {"input_ids": [[0] * len(line.split()) for line in lines]}


def test_captions_are_listed_once_in_order() -> None:
    unique, where = texts.captions(["b", "a", "b"])
    assert unique == ["b", "a"]
    assert where.tolist() == [0, 1, 0]


def test_what_is_cut_is_logged_once_with_the_first(caplog: pytest.LogCaptureFixture) -> None:
    cut = texts.CutWarning("a judge")
    with caplog.at_level(logging.WARNING, logger="rlvis"):
        cut.transformers(Words(), ["x", "y"], 1)
        assert not caplog.records
        cut.transformers(Words(), ["x", "y z"], 1)
        cut.transformers(Words(), ["x y z"], 1)
    assert [record.getMessage() for record in caplog.records] == [
        "a judge reads 1 tokens; prompts beyond that are cut, 1 of these 2, the first: 'y z'"
    ]
