"""A real server on a loopback port: what it answers, what it refuses, and that it lives through all of it."""

from __future__ import annotations

import logging
import math
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
import torch
from torch import Tensor

from rlvis.reward.contract import Scores, Term
from rlvis.reward.serving import wire
from rlvis.reward.serving.client import Remote
from rlvis.reward.serving.exchange import RemoteError
from rlvis.reward.serving.server import PLACES, public_words
from rlvis.reward.stage import score
from tests.reward.serving.places import TOKEN, content, level, pictures, served, term

LEVELS = [3, 1, 4, 1, 5]
CALL = pictures(LEVELS), ["x"] * 5, [{}] * 5
BODY = wire.encode(*CALL)
KEY = {"authorization": f"Bearer {TOKEN}"}


def picky(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> list[float]:
    """Raises on a picture of level 4."""
    if 4 in (levels := level(images, prompts, metadata)):
        raise ValueError(f"cannot see /home/me/cache/model.bin with {TOKEN}")
    return levels


def odd(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> list[float | None]:
    return [None, math.inf, *level(images, prompts, metadata)[2:]]


def column(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Scores:
    return Scores(torch.zeros(len(prompts), 1), torch.ones(len(prompts), 1, dtype=torch.bool))


TERMS = [term(level, "level", 0.5), term(picky, "picky"), term(odd, "odd"), term(column, "column")]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(TERMS, max_body=2**16, patience=0.2) as address:
        yield address


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLVIS_TOKEN", TOKEN)


def post(
    url: str, body: Any = BODY, headers: dict[str, str] | None = None, term: str = "level"
) -> httpx.Response:
    return httpx.post(f"{url}/score/{term}", content=body, headers=KEY if headers is None else headers)


def alive(url: str) -> bool:
    return content(post(url))["value"] == LEVELS


def test_scores_and_everything_beside_them(url: str) -> None:
    answer = content(post(url))
    assert answer["value"] == LEVELS
    assert answer["valid"] == [True] * 5
    assert answer["noise_var"] is answer["noise_dof"] is None
    assert answer["seconds"] >= 0
    assert content(post(url, term="odd"))["value"] == [None, None, 4, 1, 5]


def test_health_is_for_everybody_and_the_rest_is_not(url: str) -> None:
    assert content(httpx.get(f"{url}/health")) == {
        "ready": True,
        "terms": ["level", "picky", "odd", "column"],
    }
    for path in ("/terms", "/metrics"):
        assert httpx.get(url + path).status_code == 401
    listed = content(httpx.get(f"{url}/terms", headers=KEY))["terms"]
    assert listed[0] == {"name": "level", "weight": 0.5, "scorer": "level", "not_cached": None}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": TOKEN},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {TOKEN}x"},
    ],
)
def test_no_token_no_answer(url: str, headers: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    answer = post(url, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "refused POST '/score/level' from 127.0.0.1 (401)" in caplog.text
    assert TOKEN not in caplog.text + answer.text
    assert alive(url)


def test_a_body_without_a_token_is_not_read(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(b"POST /score/level HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 401")
    assert alive(url)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "does not begin"),
        (b"\x80\x04\x95pickle", 400, "does not begin"),
        (BODY[:-1], 400, "the body holds"),
        (BODY + b"x", 400, "the body holds"),
        (b"x" * 2**17, 413, "limit of 65536 bytes; start it with max_body_mb"),
        ((b"x" * 2**15 for _ in range(4)), 413, "limit of 65536 bytes"),  # chunked: no length is claimed
    ],
)
def test_bodies_that_are_none(
    url: str, body: Any, status: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = post(url, body)
    assert answer.status_code == status
    assert words in content(answer)["error"]
    assert f"({status})" in caplog.text
    assert alive(url)


def test_a_wrong_dtype_is_refused(url: str) -> None:
    floats = BODY.replace(b"'|u1'", b"'<f4'")
    answer = post(url, floats)
    assert (answer.status_code, "float32" in answer.text) == (400, True)
    assert alive(url)


@pytest.mark.parametrize("length", [b"-1", b"1e3", b"9" * 30])
def test_a_length_that_is_none(url: str, length: bytes) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        head = b"POST /score/level HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + TOKEN.encode()
        line.sendall(head + b"\r\nContent-Length: " + length + b"\r\n\r\n")
        assert b" 400 " in line.recv(200) or length == b"9" * 30
    assert alive(url)


@pytest.mark.parametrize("ends", [True, False])
def test_a_body_that_does_not_come_is_given_up(
    url: str, ends: bool, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        head = b"POST /score/level HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + TOKEN.encode()
        line.sendall(head + b"\r\nContent-Length: 5000\r\n\r\n" + BODY[:50])
        if not ends:
            assert line.recv(200).startswith(b"HTTP/1.1 408")
    until = time.monotonic() + 30
    while "refused POST" not in caplog.text and time.monotonic() < until:
        time.sleep(0.01)
    assert ("the sender left" if ends else "did not arrive") in caplog.text
    assert alive(url)


def test_stalled_bodies_block_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with served(TERMS, max_body=2**16, patience=60.0, stalled=0.05) as url, ExitStack() as lines:
        host, port = url.removeprefix("http://").split(":")
        head = b"POST /score/level HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + TOKEN.encode()
        waiting = [
            lines.enter_context(socket.create_connection((host, int(port)), timeout=30))
            for _ in range(PLACES)
        ]
        for line in waiting:
            line.sendall(head + b"\r\nContent-Length: 5000\r\n\r\n" + BODY[:50])
        assert post(url).status_code == 200
        told, _, _ = select.select(waiting, [], [], 10)
        assert told[0].recv(200).startswith(b"HTTP/1.1 408")
    assert "no byte of the body came for 0.05 s, and others wait" in caplog.text


def test_what_is_no_http_at_all(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(b"\x16\x03\x01\x02\x00\x01garbage\r\n\r\n")
        line.recv(200)
    assert alive(url)


def test_unknown_terms_and_methods(url: str) -> None:
    assert "scores level, picky" in content(post(url, term="other"))["error"]
    assert post(url, term="..%2f..%2fetc").status_code == 404
    assert httpx.get(f"{url}/score/level", headers=KEY).status_code == 405
    assert httpx.get(f"{url}/nothing").status_code == 404


def test_a_scorer_that_raises_is_an_answer_without_secrets(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = post(url, term="picky")
    assert answer.status_code == 500
    assert content(answer) == {"error": "ValueError: cannot see .../model.bin with ***", "kind": "scorer"}
    assert "Traceback" in caplog.text  # which is for who runs the server
    assert TOKEN not in caplog.text
    assert "***" in caplog.text
    assert "shape [5, 1]" in content(post(url, term="column"))["error"]
    assert alive(url)


def test_the_stage_loses_the_one_bad_image_and_no_other(url: str) -> None:
    asked = Remote([url], "picky")
    local = score([Term("picky", asked, 1.0)], *CALL[1:], CALL[0])
    asked.close()
    assert local.valid.tolist() == [True, True, False, True, True]
    assert [v for v in local.value[:, 0].tolist() if not math.isnan(v)] == [3, 1, 1, 5]
    assert local.failures == {"picky/raised": 1}


def test_scores_that_are_no_numbers_arrive_as_such(url: str) -> None:
    asked = Remote([url], "odd")
    local = score([Term("odd", asked, 1.0)], *CALL[1:], CALL[0])
    asked.close()
    assert local.valid.tolist() == [False, False, True, True, True]
    assert local.failures == {"odd/not_finite": 2}


def test_a_client_with_another_token_does_not_start(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLVIS_TOKEN", "another-token-of-some-length")
    with pytest.raises(ValueError, match="refuses the token in RLVIS_TOKEN"):
        Remote([url], "level")


def test_a_request_above_the_limit_is_told_to_the_client(url: str) -> None:
    asked = Remote([url], "level")
    with pytest.raises(RemoteError, match="max_body_mb"):
        asked(torch.zeros(1, 1, 3, 256, 256, dtype=torch.uint8), ["x"], [{}])
    asked.close()


def test_metrics_count_requests_samples_and_failures() -> None:
    with served(TERMS) as url:
        post(url)
        post(url, term="odd")
        post(url, term="picky")
        post(url, b"")
        text = httpx.get(f"{url}/metrics", headers=KEY).text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['rlvis_requests_total{term="level"}'] == "1"
    assert lines['rlvis_samples_total{term="picky"}'] == "5"
    assert [lines[f'rlvis_failures_total{{term="{name}"}}'] for name in ("level", "odd", "picky")] == [
        "0",
        "2",
        "5",
    ]
    assert float(lines['rlvis_seconds_total{term="level"}']) > 0
    assert lines['rlvis_refused_total{status="400"}'] == "1"
    assert "# TYPE rlvis_requests_total counter" in text


def test_scorers_run_one_at_a_time_and_a_sender_that_left_is_passed_over() -> None:
    inside, most, calls, gate = [0], [0], [], threading.Event()

    def slow(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> list[float]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        calls.append(prompts[0])
        gate.wait(30)
        inside[0] -= 1
        return level(images, prompts, metadata)

    def ask(url: str, prompt: str, patience: float = 60.0) -> None:
        body = wire.encode(pictures([1]), [prompt], [{}])
        timeout = httpx.Timeout(60.0, read=patience)
        try:
            httpx.post(f"{url}/score/slow", content=body, headers=KEY, timeout=timeout)
        except httpx.ReadTimeout:
            left.append(prompt)

    left: list[str] = []
    with served([term(slow, "slow")]) as url:
        first = threading.Thread(target=ask, args=(url, "first"))
        first.start()
        while not calls:
            time.sleep(0.005)
        ask(url, "impatient", 0.3)
        last = threading.Thread(target=ask, args=(url, "last"))
        last.start()
        gate.set()
        first.join()
        last.join()
    assert calls == ["first", "last"]
    assert left == ["impatient"]
    assert most == [1]


def test_without_a_token_everybody_may_ask() -> None:
    with served([term(level, "level")], None) as url:
        assert content(post(url, headers={}))["value"] == LEVELS


def test_words_for_others_hold_no_folders_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "sk-1234567890")
    error = OSError("/mnt/a/b.pt and 'C/d' via https://host/v1/x?key=sk-1234567890\n  line two")
    assert public_words(error) == "OSError: .../b.pt and 'C/d' via https://host/v1/x?key=*** line two"
    assert len(public_words(ValueError("x" * 10_000))) == 500


def test_a_long_line_of_refusals_is_one_line_each(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        httpx.get(f"{url}/a%0Afake%20line")
    assert "\nfake" not in caplog.text
