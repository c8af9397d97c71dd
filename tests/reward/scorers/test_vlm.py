"""The judge behind an endpoint: what it is asked, how answers are read, what failures cost."""

from __future__ import annotations

import json
import logging
import pickle
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlvis.reward import stage
from rlvis.reward.comparisons import meetings, win_rates
from rlvis.reward.contract import Term
from rlvis.reward.facts import fit
from rlvis.reward.judging.questions import PATTERNS, compiled
from rlvis.reward.repeats import summary
from rlvis.reward.scorer import build
from rlvis.reward.scorers.vlm import Vlm
from rlvis.schema import RewardConfig, RewardTerm
from tests.reward.scorers.endpoint import Endpoint, serving

LEVELS = [10, 60, 110, 160, 210, 250]
IMAGES = torch.stack([torch.full((1, 3, 8, 12), level, dtype=torch.uint8) for level in LEVELS])
PROMPTS, METADATA = [f"thing {i}" for i in range(6)], [{} for _ in range(6)]
DATA = np.load(Path(__file__).parents[2] / "parity" / "data" / "unified_reward.npz")


@pytest.fixture(scope="module")
def running() -> Iterator[Endpoint]:
    with serving() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(running: Endpoint) -> Endpoint:
    running.requests, running.headers = [], []
    running.reply = lambda texts, pictures: "Final Score: 3"
    return running


def judge(endpoint: Endpoint, **kwargs: Any) -> Vlm:
    kwargs.setdefault("sleep", lambda seconds: None)
    return Vlm("judge-1", endpoint.url, **kwargs)


def level(picture: Tensor) -> float:
    return float(picture.double().mean())


def test_it_asks_with_the_pictures_and_reads_the_score(endpoint: Endpoint) -> None:
    shown: list[list[Tensor]] = []

    def reply(texts: list[str], pictures: list[Tensor]) -> str:
        shown.append(pictures)
        return f"Rather dark. Final Score: {1 + level(pictures[0]) // 100}"

    endpoint.reply = reply
    images = torch.randint(0, 256, (3, 2, 3, 8, 12), generator=torch.Generator().manual_seed(0))
    images = (images // 3 + torch.tensor([0, 80, 160])[:, None, None, None, None]).to(torch.uint8)
    scores = judge(endpoint, max_tokens=40, options={"top_p": 0.5})(
        images, ["a {media} x", "b", "c"], [{}] * 3
    )
    assert scores.value.tolist() == [0.2, 0.4, 0.6]
    assert scores.noise_var is None
    assert sorted(tuple(level(p) for p in pictures) for pictures in shown) == sorted(
        tuple(level(frame) for frame in image) for image in images
    )
    question = next(
        body for body in endpoint.requests if "a {media} x" in body["messages"][0]["content"][2]["text"]
    )
    assert {k: question[k] for k in ("model", "temperature", "max_tokens", "top_p")} == {
        "model": "judge-1",
        "temperature": 0.0,
        "max_tokens": 40,
        "top_p": 0.5,
    }
    words = question["messages"][0]["content"][2]["text"]
    assert "clip of 2 frames" in words  # the judge is told that there are several
    assert "a {media} x" in words  # the prompt is not a template


def test_png_is_exact_and_jpeg_is_near(endpoint: Endpoint) -> None:
    image = torch.randint(0, 256, (1, 1, 3, 8, 12), generator=torch.Generator().manual_seed(1)).to(
        torch.uint8
    )
    shown: list[Tensor] = []
    endpoint.reply = lambda texts, pictures: (shown.extend(pictures), "Final Score: 1")[1]
    for kind in ("png", "jpeg"):
        judge(endpoint, picture=kind)(image, ["a"], [{}])
    assert torch.equal(shown[0], image[0, 0])
    assert shown[1].shape == image[0, 0].shape
    assert not torch.equal(shown[1], image[0, 0])


def test_answers_are_read_as_unified_reward_reads_them(endpoint: Endpoint) -> None:
    """Upstream scores an answer it cannot read 0; here that sample is invalid."""
    texts, theirs = json.loads(bytes(DATA["texts"])), torch.from_numpy(DATA["score"])
    endpoint.reply = lambda words, pictures: texts[LEVELS.index(round(level(pictures[0])))]
    scores = judge(endpoint)(IMAGES[: len(texts)], PROMPTS[: len(texts)], METADATA[: len(texts)])
    read = torch.tensor([compiled(PATTERNS["pointwise"]).search(text) is not None for text in texts])
    assert torch.equal(scores.valid, read)
    assert torch.equal(theirs[~read], torch.zeros(2, dtype=torch.float64))
    assert torch.equal(scores.value[read], theirs[read] / 5)
    assert bool(scores.value[~read].isnan().all())


def test_repeats_give_the_mean_and_its_noise(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    turns = Counter[float]()
    says = {10.0: ["1", "2", "4"], 60.0: ["3", "nothing", "5"], 110.0: ["?", "?", "2"]}

    def reply(texts: list[str], pictures: list[Tensor]) -> str:
        grey = level(pictures[0])
        turns[grey] += 1
        return f"Final Score: {says[grey][turns[grey] - 1]}"

    endpoint.reply = reply
    vlm = judge(endpoint, repeats=3, temperature=0.7, concurrency=1)
    scores = stage.score([Term("vlm", vlm, 1.0)], PROMPTS[:3], METADATA[:3], IMAGES[:3])
    assert scores.valid.tolist() == [True, True, False]
    assert scores.value[:2, 0].tolist() == pytest.approx([7 / 15, 0.8])
    assert scores.noise_var is not None
    assert scores.noise_dof is not None
    # s^2 of (0.2, 0.4, 0.8) over 3, and of (0.6, 1.0) over 2
    assert scores.noise_var[:2, 0].tolist() == pytest.approx([0.28 / 9, 0.04])
    assert scores.noise_dof[:2, 0].tolist() == [2.0, 1.0]
    assert "3 of 9 questions have no usable answer" in caplog.text
    assert "nothing to read in 'Final Score: ?'" in caplog.text


def test_what_may_pass_is_tried_again(endpoint: Endpoint) -> None:
    pauses: list[float] = []
    turns = Counter[float]()
    fails = {
        10.0: (429, "slow down", {"retry-after": "7"}),
        60.0: (500, "oops", {}),
        110.0: (200, "<html>not json", {}),
        160.0: (503, "", {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    }

    def reply(texts: list[str], pictures: list[Tensor]) -> Any:
        grey = level(pictures[0])
        turns[grey] += 1
        return fails[grey] if turns[grey] < 3 else "Final Score: 5"

    endpoint.reply = reply
    scores = judge(endpoint, sleep=pauses.append)(IMAGES[:4], PROMPTS[:4], METADATA[:4])
    assert scores.value.tolist() == [1.0] * 4
    assert set(turns.values()) == {3}
    assert sorted(pauses) == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 7.0, 7.0]


def test_what_does_not_pass_costs_its_sample_alone(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    def reply(texts: list[str], pictures: list[Tensor]) -> Any:
        grey = level(pictures[0])
        if grey == 10.0:
            return 500, "always", {}
        if grey == 60.0:
            return 400, "picture too small", {}
        if grey == 110.0:
            return 200, json.dumps({"choices": [{"message": {"content": None}}]}), {}
        if grey == 160.0:
            time.sleep(3.0)
        return "Final Score: 2.25 out of 5"

    endpoint.reply = reply
    vlm = judge(endpoint, attempts=2, timeout=1.5)
    scores = stage.score([Term("vlm", vlm, 1.0)], PROMPTS[:5], METADATA[:5], IMAGES[:5])
    assert scores.valid.tolist() == [False] * 4 + [True]
    assert float(scores.value[4, 0]) == 0.45
    assert scores.failures == {"vlm/not_finite": 4}
    asked = Counter(level(_first(body)) for body in endpoint.requests)
    assert asked == {10.0: 2, 60.0: 1, 110.0: 1, 160.0: 2, 210.0: 1}
    assert "4 of 5 questions have no usable answer" in caplog.text


def _first(body: dict[str, Any]) -> Tensor:
    from tests.reward.scorers.endpoint import decoded

    return decoded(body["messages"][0]["content"][0]["image_url"]["url"])


def test_an_endpoint_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    pauses: list[float] = []
    vlm = Vlm("m", "http://127.0.0.1:9/v1", attempts=3, sleep=pauses.append)
    scores = stage.score([Term("vlm", vlm, 1.0)], PROMPTS[:2], METADATA[:2], IMAGES[:2])
    assert scores.failures == {"vlm/raised": 2}
    assert sorted(pauses) == [1.0, 1.0, 2.0, 2.0]  # it has insisted: neither repeated nor asked row by row
    (record,) = caplog.records
    assert "ConnectError, 3 times" in record.getMessage()


def test_patience_waits_for_an_endpoint(endpoint: Endpoint) -> None:
    turns, slept = [0], list[float]()

    def reply(texts: list[str], pictures: list[Tensor]) -> Any:
        turns[0] += 1
        return (503, "restarting", {}) if turns[0] <= 4 else "Final Score: 5"

    endpoint.reply = reply
    term = Term("vlm", judge(endpoint, attempts=1), 1.0)
    now = lambda: sum(slept)  # noqa: E731
    scores = stage.score([term], ["a"], [{}], IMAGES[:1], clock=now, patience=60.0, sleep=slept.append)
    assert scores.value.tolist() == [[1.0]]
    assert slept == [1.0, 2.0, 4.0, 8.0]
    assert (term.boundary.news.retried, term.boundary.news.seconds) == (4, 15.0)


def test_an_endpoint_that_wants_max_completion_tokens(endpoint: Endpoint) -> None:
    words = "Unsupported parameter: 'max_tokens' is not supported, use 'max_completion_tokens' instead."

    def reply(texts: list[str], pictures: list[Tensor]) -> Any:
        return (400, words, {}) if "max_tokens" in endpoint.requests[-1] else "Final Score: 5"

    endpoint.reply = reply
    vlm = judge(endpoint, max_tokens=77, concurrency=1)
    assert vlm(IMAGES[:3], PROMPTS[:3], METADATA[:3]).value.tolist() == [1.0] * 3
    limits = [(b.get("max_tokens"), b.get("max_completion_tokens")) for b in endpoint.requests]
    assert limits == [(77, None), (None, 77), (None, 77), (None, 77)]


@pytest.mark.parametrize(
    ("message", "finish", "score", "reason"),
    [
        ({"content": "", "reasoning_content": "So: Final Score: 4"}, "stop", 0.8, ""),
        ({"content": None, "reasoning": "Final Score: 4"}, "stop", 0.8, ""),
        ({"content": "Final Score: 1", "reasoning_content": "Final Score: 4"}, "stop", 0.2, ""),
        ({"content": [{"type": "text", "text": "Final Score: 2"}]}, "stop", 0.4, ""),
        (
            {"content": "", "reasoning_content": "Final Score: 4, or"},
            "length",
            None,
            "still thinking after 9 tokens",
        ),
        ({"content": "  "}, "stop", None, "an answer without text"),
        ({"content": "nothing"}, "stop", None, "kwargs.pattern what is read, kwargs.max_tokens"),
    ],
)
def test_where_the_text_of_an_answer_stands(
    endpoint: Endpoint, message: dict[str, Any], finish: str, score: float | None, reason: str
) -> None:
    choice = {"message": message, "finish_reason": finish}
    endpoint.reply = lambda texts, pictures: (200, json.dumps({"choices": [choice]}), {})
    scores = judge(endpoint, max_tokens=9)(IMAGES[:1], PROMPTS[:1], METADATA[:1])
    assert scores.valid.tolist() == [score is not None]
    assert score is None or float(scores.value) == pytest.approx(score)
    assert reason in scores.reason


def test_the_key_goes_to_the_endpoint_and_nowhere_else(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    replies: list[Any] = [
        "Final Score: 3",
        (401, "bad key sk-very-secret", {}),
        (400, "you sent sk-very-secret", {}),
    ]
    endpoint.reply = lambda texts, pictures: replies.pop(0)
    vlm = judge(endpoint, key_env="JUDGE_KEY")
    with caplog.at_level(logging.DEBUG):
        reasons = [vlm(IMAGES[:1], ["a"], [{}]).reason for _ in range(3)]
    assert [headers["authorization"] for headers in endpoint.headers] == ["Bearer sk-very-secret"] * 3
    assert "very-secret" not in caplog.text
    assert "refuses the key in JUDGE_KEY" in reasons[1]
    assert "status 400: you sent ***" in reasons[2]
    vlm.chat._sleep = time.sleep
    assert b"very-secret" not in pickle.dumps(vlm)
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ValueError, match=r"JUDGE_KEY holds no key; type export JUDGE_KEY="):
        judge(endpoint, key_env="JUDGE_KEY")
    monkeypatch.setenv("JUDGE_KEY", "x")
    Vlm("m", "http://192.0.2.1/v1", key_env="JUDGE_KEY")
    assert "the key in JUDGE_KEY travel to 192.0.2.1 in the clear" in caplog.text


def brighter(texts: list[str], pictures: list[Tensor]) -> str:
    """An honest judge of two pictures; a difference below 60 levels is a tie."""
    difference = level(pictures[0]) - level(pictures[1])
    return "Better: tie" if abs(difference) < 60 else f"So it is. Better: {'A' if difference > 0 else 'B'}"


def pairs(endpoint: Endpoint, **kwargs: Any) -> Vlm:
    return judge(endpoint, mode="pairwise", **kwargs)


def test_pairwise_scores_are_win_rates_of_the_group(endpoint: Endpoint) -> None:
    endpoint.reply = brighter
    prompts = ["x", "x", "x", "y", "y", "y"]
    scores = pairs(endpoint, group=3)(IMAGES, prompts, METADATA)
    # levels 10, 60, 110: ties between neighbours; 160, 210, 250: only the ends are far apart
    assert scores.value.tolist() == [0.25, 0.5, 0.75] * 2
    assert len(endpoint.requests) == 2 * 3 * 2  # groups, pairs, both ways
    words = [part.get("text") for part in endpoint.requests[0]["messages"][0]["content"]]
    assert words[0] == "A:"
    assert words[2] == "B:"
    assert words[4] is not None
    assert "two pictures, A and B" in words[4]


def test_a_liking_for_the_first_picture_cancels_and_is_told(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.reply = lambda texts, pictures: (
        brighter(texts, pictures) if abs(level(pictures[0]) - level(pictures[1])) > 100 else "Better: A"
    )
    with caplog.at_level(logging.INFO):
        scores = pairs(endpoint, group=4)(IMAGES[:4], ["x"] * 4, METADATA[:4])
    assert scores.value.tolist() == pytest.approx([1 / 3, 0.5, 0.5, 2 / 3], abs=1e-12)  # only the ends differ
    assert "of 6 comparisons, made both ways, the first picture won 92 %" in caplog.text
    assert "position bias +0.42, cancelled" in caplog.text
    assert "both ways agree in 17 %" in caplog.text


def test_a_group_that_is_not_whole_is_refused_in_words(
    endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.reply = brighter
    scores = pairs(endpoint, group=2)(IMAGES[:5], ["x", "x", "y", "z", "z"], METADATA[:5])
    assert scores.valid.tolist() == [True, True, False, True, True]
    assert "1 of 5 samples have no whole group of 2 of their prompt in this call" in caplog.text
    assert "train.shard" in caplog.text
    assert pairs(endpoint)(IMAGES[:1], ["x"], [{}]).valid.tolist() == [False]
    other = [{"seed": i} for i in (0, 0, 1, 1)]  # the same text as two prompts of the data set
    assert pairs(endpoint, group=2)(IMAGES[:4], ["x"] * 4, other).valid.all()


def test_failed_comparisons_are_left_out(endpoint: Endpoint) -> None:
    def reply(texts: list[str], pictures: list[Tensor]) -> str:
        bad = {level(p) for p in pictures} == {10.0, 210.0} and level(pictures[0]) == 10.0
        return "I cannot say" if bad else brighter(texts, pictures)

    endpoint.reply = reply
    scores = pairs(endpoint, group=3)(IMAGES[[0, 2, 4]], ["x"] * 3, METADATA[:3])
    assert scores.value.tolist() == [0.0, 0.5, 1.0]  # of 1, 2 and 1 pairs
    endpoint.reply = lambda texts, pictures: "I cannot say"
    assert not pairs(endpoint)(IMAGES, ["x"] * 6, METADATA).valid.any()


def test_opponents_on_a_ring_are_as_many_for_all() -> None:
    for n in (4, 5, 6, 7):
        for opponents in (1, 2, 3, 4, None):
            met = list(meetings(range(n), opponents))
            assert len({frozenset(pair) for pair in met}) == len(met)
            counts = {sum(i in pair for pair in met) for i in range(n)}
            assert len(counts) == 1
            assert counts.pop() >= min(opponents or n, n - 1)


def test_win_rates_and_repeats_by_hand() -> None:
    nan = float("nan")
    wins = torch.tensor([[1.0, 0.5, nan], [0.0, nan, nan]], dtype=torch.float64)
    rates = win_rates(wins, [(0, 1), (1, 2), (0, 2)], 3)
    assert rates[0].tolist() == [1.0, 0.25, 0.5]
    assert rates[1, :2].tolist() == [0.0, 1.0]
    assert bool(rates[1, 2].isnan())
    scores = summary(torch.tensor([[1.0, nan], [2.0, nan], [3.0, 1.0]], dtype=torch.float64))
    assert scores.valid.tolist() == [True, False]
    assert scores.noise_var is not None
    assert float(scores.noise_var[0]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"pattern": "Score: 3"}, "has no group"),
        ({"pattern": "(("}, "is no regular expression"),
        ({"base_url": "http://name:word@host/v1"}, "without a name or a password"),
        ({"base_url": "127.0.0.1:8000"}, "wanted an address such as http"),
    ],
)
def test_patterns_and_addresses_that_are_none(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Vlm("m", **kwargs)
    assert "word" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mode": "pairwise", "scale": 5.0}, "scale=5.0 does nothing with mode=pairwise"),
        ({"group": 4}, "group=4 does nothing with mode=pointwise"),
        ({"repeats": 3}, "repeats=3 with temperature=0 .* type temperature=0.7"),
    ],
)
def test_arguments_that_do_nothing_together(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit("vlm", {"model": "m", **kwargs}, "t")


def test_a_term_by_name_and_a_typo(endpoint: Endpoint) -> None:
    config = {"model": "m", "base_url": endpoint.url}
    (term,) = build(RewardConfig(terms={"vlm": RewardTerm("vlm", kwargs=config, frames="first")}))
    assert term.scorer(IMAGES[:1], ["a"], [{}]).value.tolist() == [0.6]
    with pytest.raises(ValueError, match=r"no argument 'base_ur'; did you mean base_url\?"):
        build(RewardConfig(terms={"vlm": RewardTerm("vlm", kwargs={**config, "base_ur": "x"})}))
