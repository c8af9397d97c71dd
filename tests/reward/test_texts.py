"""Captions once each, and the word in the log when a judge cuts some."""

import logging

import pytest

from rlvis.reward import texts


def test_captions_are_listed_once_in_order() -> None:
    unique, where = texts.captions(["b", "a", "b"])
    assert unique == ["b", "a"]
    assert where.tolist() == [0, 1, 0]


def test_what_is_cut_is_logged_with_the_first(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="rlvis"):
        assert not texts.warn_cut("a judge", 7, ["x", "y"], [False, False])
        assert not caplog.records
        assert texts.warn_cut("a judge", 7, ["x", "y z"], [False, True])
    assert caplog.records[0].getMessage() == (
        "a judge reads 7 tokens; prompts beyond that are cut, 1 of these 2, the first: 'y z'"
    )
