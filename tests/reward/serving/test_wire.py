"""The wire: what was sent arrives, and bytes that are no request are refused before they become an array."""

from __future__ import annotations

import io
import json
import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvis.reward.contract import Scores
from rlvis.reward.serving import wire
from tests.reward.serving.places import pictures

IMAGES = torch.randint(0, 256, (2, 3, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
PROMPTS = ["a red circle", "zwei K\u00e4tzchen \ud800"]
METADATA = [{"n": np.float32(0.5), "at": np.arange(3)}, {"nested": {"x": [None, True]}}]
BODY = wire.encode(IMAGES, PROMPTS, METADATA)


def test_a_request_arrives_as_it_was_sent() -> None:
    images, prompts, metadata = wire.decode(bytearray(BODY))
    assert torch.equal(images, IMAGES)
    assert prompts == PROMPTS
    assert metadata == [{"n": 0.5, "at": [0, 1, 2]}, {"nested": {"x": [None, True]}}]
    images.zero_()  # a scorer may write into what it is given; bytes that cannot be written are copied
    assert torch.equal(wire.decode(BODY)[0], IMAGES)


def test_frames_that_were_chosen_need_not_lie_together() -> None:
    chosen = IMAGES[:, [2, 0]].flip(0)
    assert torch.equal(wire.decode(wire.encode(chosen, PROMPTS, METADATA))[0], chosen)


def frame(head: object, images: bytes) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return wire.MAGIC + wire.LENGTH.pack(len(text)) + text + images


def npy(array: np.ndarray, **kwargs: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **kwargs)
    return file.getvalue()


HEAD = {"prompts": ["a", "b"], "metadata": [{}, {}]}
GOOD = npy(np.zeros((2, 1, 3, 2, 2), np.uint8))


def test_numpy_s_own_file_is_taken() -> None:
    assert wire.decode(frame(HEAD, GOOD))[0].shape == (2, 1, 3, 2, 2)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "0 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n", "does not begin"),
        (wire.MAGIC + wire.LENGTH.pack(2**31), "claims 2147483648 bytes"),
        (frame(b"\xff{", GOOD), "not JSON"),
        (frame(b"[" * 100_000, GOOD), "not JSON"),
        (frame([1], GOOD), "no JSON object"),
        (frame({"prompts": ["a", "b"]}, GOOD), "no JSON object"),
        (frame({"prompts": "ab", "metadata": [{}, {}]}, GOOD), "prompts are not"),
        (frame({"prompts": ["a", 1], "metadata": [{}, {}]}, GOOD), "prompts are not"),
        (frame({"prompts": ["a", "b"], "metadata": [{}, 3]}, GOOD), "metadata are not"),
        (frame({"prompts": ["a", "b"], "metadata": [{}]}, GOOD), "2 prompts and 1 metadata"),
        (frame({"prompts": [], "metadata": []}, GOOD), "0 prompts"),
        (frame({"prompts": ["a"], "metadata": [{}]}, GOOD), "2 images for 1 prompts"),
        (frame(HEAD, b""), "npy"),
        (frame(HEAD, GOOD[:40]), "npy"),
        (frame(HEAD, GOOD[:-1]), "are 24 bytes, and the body holds 23"),
        (frame(HEAD, GOOD + b"x"), "are 24 bytes, and the body holds 25"),
        (frame(HEAD, npy(np.zeros((2, 1, 3, 2, 2), np.float32))), "images of float32"),
        (frame(HEAD, npy(np.asfortranarray(np.zeros((2, 1, 3, 2, 2), np.uint8)))), "Fortran"),
        (frame(HEAD, npy(np.zeros((2, 3, 2, 2), np.uint8))), "images of shape"),
        (frame(HEAD, npy(np.zeros((2, 1, 4, 2, 2), np.uint8))), "images of shape"),
        (frame(HEAD, npy(np.zeros((2, 0, 3, 2, 2), np.uint8))), "images of shape"),
        (frame(HEAD, npy(np.array([{"a": 1}, 2], dtype=object), allow_pickle=True)), "images of object"),
    ],
)
def test_what_is_no_request_is_refused_in_words(body: bytes, words: str) -> None:
    with pytest.raises(wire.WireError, match=words):
        wire.decode(bytearray(body))


def test_a_size_that_is_only_claimed_takes_no_memory() -> None:
    top = GOOD.replace(b"(2, 1, 3, 2, 2)", b"(2, 1, 3, 65536, 65536)".ljust(15))
    tracemalloc.start()
    with pytest.raises(wire.WireError, match="are 25769803776 bytes"):
        wire.decode(bytearray(frame(HEAD, _sized(top))))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def _sized(top: bytes) -> bytes:
    """A .npy header whose length field fits its text again."""
    text = top[10 : top.index(b"\n") + 1]
    return top[:8] + len(text).to_bytes(2, "little") + text + b"\0" * 24


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(BODY) - 1), what=st.binary(max_size=12), cut=st.booleans())
def test_damaged_bytes_raise_nothing_else(at: int, what: bytes, cut: bool) -> None:
    body = bytearray(BODY[:at] + what + (b"" if cut else BODY[at + len(what) :]))
    try:
        images, prompts, _ = wire.decode(body)
    except wire.WireError:
        return
    assert len(images) == len(prompts)


def test_metadata_without_a_form_in_json_are_the_sender_s_mistake() -> None:
    with pytest.raises(wire.WireError, match="a set has no form in JSON"):
        wire.encode(pictures([1]), ["a"], [{"x": {1}}])
    with pytest.raises(wire.WireError, match="2 prompts"):
        wire.encode(pictures([1]), ["a", "b"], [{}])


def test_an_answer_says_null_and_not_0_where_there_is_no_number() -> None:
    value = torch.tensor([0.1, math.nan, math.inf], dtype=torch.float64)
    scores = Scores(value, torch.tensor([True, True, False]), torch.tensor([0.5, math.nan, 1]), None)
    fields = json.loads(json.dumps(wire.answer(scores, 0.25), allow_nan=False))
    assert fields["value"] == [0.1, None, None]
    assert fields["seconds"] == 0.25
    back = wire.read_answer(json.dumps(fields).encode())
    assert float(back.value[0]) == 0.1  # bit for bit
    assert back.value.isnan().tolist() == [False, True, True]
    assert back.valid.tolist() == [True, True, False]
    assert back.noise_var is not None
    assert back.noise_var.isnan().tolist() == [False, True, False]
    assert back.noise_dof is None


def test_scores_of_a_wrong_shape_are_not_sent() -> None:
    with pytest.raises(wire.WireError, match=r"value has shape \[2, 1\]"):
        wire.answer(Scores(torch.zeros(2, 1), torch.ones(2, dtype=torch.bool)), 0.0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>busy</html>",
        b"[1, 2]",
        b"[" * 100_000,
        b'{"value": [1.0]}',
        b'{"value": [1.0], "valid": [1]}',
        b'{"value": [1.0, 2.0], "valid": [true]}',
        b'{"value": [true], "valid": [true]}',
        b'{"value": ["0.5"], "valid": [true]}',
        b'{"value": [[1.0]], "valid": [true]}',
        b'{"value": [1' + b"0" * 400 + b'], "valid": [true]}',
        b'{"value": [1.0], "valid": [true], "noise_var": 3}',
    ],
)
def test_what_is_no_answer_is_refused(body: bytes) -> None:
    with pytest.raises(wire.WireError, match="an answer"):
        wire.read_answer(body)
