"""The client on a clock that does not wait: late, lost, garbled and refusing servers, several of them."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import torch

from rlvis.reward.contract import Term
from rlvis.reward.facts import fit
from rlvis.reward.serving import client
from rlvis.reward.serving.client import Remote
from rlvis.reward.serving.exchange import RemoteError, UnavailableError
from rlvis.reward.stage import score
from tests.reward.serving.places import TERMS, TOKEN, Net, answering, host, pictures, remote

LEVELS = [3, 1, 4, 1, 5]
CALL = pictures(LEVELS), ["x"] * 5, [{}] * 5


def refuse(body: bytes) -> httpx.Response:
    raise httpx.ConnectError("All connection attempts failed")


def status(code: int, **fields: Any) -> Callable[[bytes], httpx.Response]:
    return lambda body: httpx.Response(code, json=fields)


def failing(times: int, how: Callable[[bytes], Any] = refuse) -> Callable[[bytes], Any]:
    """A server that fails so many times and then answers."""
    left = [times]

    def answer(body: bytes) -> Any:
        left[0] -= 1
        return how(body) if left[0] >= 0 else answering(body)

    return answer


def test_scores_come_in_the_order_of_the_samples() -> None:
    net = Net(a=host(), b=host())
    with remote(net, batch=2) as asked:
        assert asked(*CALL).value.tolist() == LEVELS
        assert (asked.term, asked.scorer) == ("own", "level")
    assert sorted(net.scored) == ["a", "a", "b"]  # three requests, shared out


def test_large_samples_go_in_smaller_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LARGEST", 25)  # two of 12 bytes
    net = Net(a=host())
    with remote(net) as asked:
        assert asked(*CALL).value.tolist() == LEVELS
        assert len(net.scored) == 3
        monkeypatch.setattr(client, "LARGEST", 5)
        asked(*CALL)
        assert len(net.scored) == 8


def test_an_answer_1000_times_too_late_is_no_answer() -> None:
    net = Net(late=host(delay=lambda: 120_000.0))
    start = time.monotonic()
    with (
        remote(net, timeout=120.0, attempts=3) as asked,
        pytest.raises(UnavailableError, match="within 120 s"),
    ):
        asked(*CALL)
    assert time.monotonic() - start < 60  # of which the servers' and the client's clocks know nothing
    assert net.asked[-1][2] > 120


def test_a_late_server_costs_its_samples_and_not_the_run() -> None:
    net = Net(late=host(delay=lambda: 120_000.0))
    with remote(net) as asked:
        local = score([Term("own", asked, 1.0)], *CALL[1:], CALL[0])
    assert not bool(local.valid.any())
    assert bool(local.value.isnan().all())
    assert local.failures == {"own/raised": 5}
    # Two attempts, then one more look in each of the stage's calls at most: not three for every row.
    assert len(net.scored) <= 4


def test_a_server_that_returns_is_waited_for() -> None:
    net = Net(a=host(failing(4)))
    with remote(net) as asked:
        assert asked(*CALL).value.tolist() == LEVELS
    waits = [when for _, path, when in net.asked if path.startswith("/score/")]
    pauses = [b - a for a, b in itertools.pairwise(waits)]
    assert [0.5 * 2**i <= pause <= 2**i for i, pause in enumerate(pauses)] == [True] * 4


def test_the_pauses_come_from_the_seed() -> None:
    def pauses(seed: int) -> list[float]:
        net = Net(a=host(failing(3)))
        with remote(net, seed=seed) as asked:
            asked(*CALL)
        return [when for _, path, when in net.asked if path.startswith("/score/")]

    assert pauses(1) == pauses(1) != pauses(2)


@pytest.mark.parametrize(
    "how",
    [
        refuse,
        status(503, error="busy"),
        status(200, value=[1.0] * 5),
        lambda body: httpx.Response(200, content=b"\x00garbage"),
        lambda body: httpx.Response(302, headers={"location": "https://elsewhere/"}),
        status(401, error="no"),
    ],
)
def test_another_server_is_asked_at_once(how: Callable[[bytes], Any]) -> None:
    net = Net(bad=host(how), good=host())
    with remote(net) as asked:
        for _ in range(3):
            assert asked(*CALL).value.tolist() == LEVELS
    assert net.scored.count("bad") == 1  # then it rests
    assert max(when for _, _, when in net.asked) == 0.0  # nobody waited


def test_a_server_that_rested_is_asked_again() -> None:
    net = Net(a=host(failing(1)), b=host(delay=lambda: 4.0))
    with remote(net, rest=5.0) as asked:
        for _ in range(4):
            asked(*CALL)
    assert net.scored[:4] == ["a", "b", "b", "a"]


def test_lost_servers_cost_one_wait_and_not_one_for_each_sample() -> None:
    net = Net(a=host(refuse), b=host(refuse))
    with remote(net, attempts=4, rest=1000.0) as asked:
        with pytest.raises(UnavailableError):
            asked(*CALL)
        spent = len(net.scored)
        with pytest.raises(UnavailableError, match="all 2 reward servers rest"):
            asked(*CALL)
        assert len(net.scored) == spent


def test_a_wrong_token_is_not_waited_for() -> None:
    net = Net(a=host(status(401, error="no")))
    with remote(net) as asked, pytest.raises(UnavailableError, match="refuses a request without a token"):
        asked(*CALL)
    assert len(net.scored) == 1


def test_the_scorer_s_own_words_arrive_and_are_not_repeated_here() -> None:
    net = Net(a=host(status(500, error="ValueError: no face", kind="scorer")), b=host())
    with remote(net) as asked:
        with pytest.raises(RemoteError, match="ValueError: no face"):
            asked(*CALL)
        assert net.scored == ["a"]
        assert asked.servers.all[0].failures == 0  # the server is well
        assert asked(*CALL).value.tolist() == LEVELS  # the stage's retry finds another one


def test_a_request_that_is_too_large_is_refused_everywhere() -> None:
    net = Net(a=host(status(413, error="above the limit")), b=host())
    with remote(net) as asked, pytest.raises(RemoteError, match="above the limit"):
        asked(*CALL)
    assert net.scored == ["a"]


def test_a_score_too_few_in_one_request_moves_no_other() -> None:
    def short(body: bytes) -> httpx.Response:
        fields = json.loads(answering(body).content)
        return httpx.Response(200, json={key: fields[key][1:] for key in ("value", "valid")})

    with remote(Net(a=host(short)), batch=2) as asked, pytest.raises(RemoteError, match="1 scores for 2"):
        asked(*CALL)
    with remote(Net(a=host(short))) as asked:
        local = score([Term("own", asked, 1.0)], *CALL[1:], CALL[0])
    assert local.failures == {"own/shape": 5}


class TestHedging:
    def test_the_second_server_answers_for_a_slow_one(self) -> None:
        net = Net(slow=host(delay=lambda: 100.0), quick=host())
        with remote(net, hedge=2.0) as asked:
            assert asked(*CALL).value.tolist() == LEVELS
            assert [server.busy for server in asked.servers.all] == [0, 0]
        assert [when for _, path, when in net.asked if path.startswith("/score/")] == [0.0, 2.0]

    def test_a_quick_answer_asks_nobody_else(self) -> None:
        net = Net(a=host(delay=lambda: 1.0), b=host())
        with remote(net, hedge=2.0) as asked:
            asked(*CALL)
        assert net.scored == ["a"]

    def test_the_slow_one_counts_when_the_second_fails(self) -> None:
        net = Net(slow=host(delay=lambda: 10.0), broken=host(refuse))
        with remote(net, hedge=2.0) as asked:
            assert asked(*CALL).value.tolist() == LEVELS
        assert net.scored == ["slow", "broken"]

    def test_a_scorer_s_complaint_is_an_answer(self) -> None:
        net = Net(slow=host(delay=lambda: 50.0), b=host(status(500, error="no face", kind="scorer")))
        with remote(net, hedge=2.0) as asked, pytest.raises(RemoteError, match="no face"):
            asked(*CALL)


def lost(request: httpx.Request, body: bytes) -> Any:
    raise httpx.ConnectError("refused")


class TestAtTheStart:
    def test_one_server_is_enough(self, caplog: pytest.LogCaptureFixture) -> None:
        net = Net(gone=lost, here=host())
        with remote(net) as asked:
            assert asked(*CALL).value.tolist() == LEVELS
        assert net.scored == ["here"]
        assert "https://gone cannot be reached (ConnectError: refused); it rests" in caplog.text

    def test_without_a_server_nothing_starts(self) -> None:
        with (
            pytest.raises(ValueError, match=r"no reward server can be used: https://gone.*rlvis serve"),
            remote(Net(gone=lost)),
        ):
            pass

    def test_what_is_no_reward_server(self) -> None:
        async def page(request: httpx.Request, body: bytes) -> httpx.Response:
            return httpx.Response(200, text="<html>")

        with (
            pytest.raises(ValueError, match="https://web is no reward server of rlvis"),
            remote(Net(web=page)),
        ):
            pass

    def test_a_term_that_is_not_there_is_named(self) -> None:
        with (
            pytest.raises(ValueError, match=r"no term 'clip'.*they score own"),
            remote(Net(a=host()), term="clip"),
        ):
            pass

    def test_of_several_terms_one_must_be_named(self) -> None:
        async def two(request: httpx.Request, body: bytes) -> httpx.Response:
            other = TERMS["terms"][0] | {"name": "other"}
            return httpx.Response(200, json={"terms": [*TERMS["terms"], other]})

        with pytest.raises(ValueError, match=r"a term has to be named.*own, other"), remote(Net(a=two)):
            pass

    @pytest.mark.parametrize(
        ("kwargs", "words"),
        [
            ({"urls": []}, "wanted a list"),
            ({"urls": ["ftp://a"]}, "no server's address"),
            ({"urls": ["http://a:99999"]}, "no server's address"),
            ({"urls": ["http://me:pass@a"]}, "user or password"),
            ({"hedge": 200.0}, "wanted hedge below timeout"),
        ],
    )
    def test_arguments_that_do_not_fit(self, kwargs: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            fit("remote", {"urls": ["http://127.0.0.1:1"], "token_env": None} | kwargs, "t")


class TestToken:
    def test_it_is_sent_and_never_told(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("MINE", TOKEN)
        headers = []

        async def keep(request: httpx.Request, body: bytes) -> httpx.Response:
            headers.append(request.headers["authorization"])
            return httpx.Response(200, json=TERMS) if request.url.path == "/terms" else httpx.Response(401)

        with (
            caplog.at_level(logging.DEBUG),
            remote(Net(a=keep), token_env="MINE") as asked,
            pytest.raises(UnavailableError, match="refuses the token in MINE") as caught,
        ):
            asked(*CALL)
        assert set(headers) == {f"Bearer {TOKEN}"}
        assert TOKEN not in caplog.text + str(caught.value) + repr(vars(asked)) + repr(asked)

    @pytest.mark.parametrize("value", [None, "", "   ", "line\nbreak", "k\u00e4se"])
    def test_without_one_there_is_no_client(self, value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MINE", raising=False)
        if value is not None:
            monkeypatch.setenv("MINE", value)
        with pytest.raises(ValueError, match="MINE holds no token"), remote(Net(a=host()), token_env="MINE"):
            pass

    @pytest.mark.parametrize(("url", "warned"), [("http://far:1", True), ("https://far:1", False)])
    def test_in_the_clear_is_told(
        self, url: str, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("RLVIS_TOKEN", TOKEN)
        Remote([url], transport=Net(far=host())).close()
        assert ("the token travel to http://far:1 in the clear" in caplog.text) == warned

    def test_no_proxy_of_the_environment_sees_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
        with remote(Net(a=host())) as asked:
            assert asked._exchange._client._mounts == {}


def test_noise_that_one_piece_leaves_out_is_nan_there() -> None:
    def some(body: bytes) -> httpx.Response:
        fields = json.loads(answering(body).content)
        if fields["value"][0] == 3:
            fields |= {"noise_var": [0.5, 0.25], "noise_dof": [3, 3]}
        return httpx.Response(200, json=fields)

    with remote(Net(a=host(some)), batch=2) as asked:
        scores = asked(*CALL)
    assert scores.noise_var is not None
    assert scores.noise_var[:2].tolist() == [0.5, 0.25]
    assert bool(scores.noise_var[2:].isnan().all())
    assert scores.noise_dof is not None
    assert torch.equal(scores.noise_var.isnan(), scores.noise_dof.isnan())
