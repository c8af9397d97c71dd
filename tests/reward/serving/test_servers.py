"""Which server is next, how long one rests, and what an address is."""

from __future__ import annotations

import pytest

from rlvis.reward.serving.servers import LONGEST, Servers, address, in_the_clear


def test_the_one_with_the_least_to_do_is_next() -> None:
    servers = Servers(["a", "b", "c"], rest=5.0)
    a, b, c = servers.all
    a.busy, c.busy = 1, 1
    assert servers.pick(0.0) is b
    a.busy = b.busy = c.busy = 0
    a.asked, b.asked = 2, 1
    assert servers.pick(0.0) is c
    assert servers.healthy(0.0, beside=c) == [b, a]


def test_rest_doubles_until_an_answer() -> None:
    servers = Servers(["a"], rest=5.0)
    [a] = servers.all
    now, pauses = 0.0, []
    for _ in range(9):
        servers.bad(a, now, "a is gone")
        pauses.append(a.until - now)
        now = a.until
    assert pauses == [5, 10, 20, 40, 80, 160, LONGEST, LONGEST, LONGEST]
    servers.good(a)
    servers.bad(a, now, "a is gone")
    assert a.until == now + 5


def test_several_requests_that_fail_together_are_one_failure() -> None:
    servers = Servers(["a", "b"], rest=5.0)
    a, b = servers.all
    for _ in range(8):
        servers.bad(a, 1.0, "a is gone")
    assert (a.failures, a.until) == (1, 6.0)
    assert servers.pick(2.0) is b
    servers.bad(b, 3.0, "b is gone")
    assert servers.pick(4.0) is a  # both rest: the one that wakes first
    assert servers.healthy(4.0) == []
    assert servers.healthy(6.0) == [a]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8700/", "https://host", "http://[::1]:80", "http://h/base/"]
)
def test_addresses(url: str) -> None:
    assert address(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:8700",
        "ftp://h",
        "http://",
        "http://h:x",
        "http://h:0",
        "http://h/?a=1",
        "http://h #",
        "http://\n",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match="no server's address"):
        address(url)


@pytest.mark.parametrize(
    ("url", "open_to_all"),
    [
        ("http://127.0.0.1:1", False),
        ("http://127.8.0.1", False),
        ("http://localhost", False),
        ("http://[::1]:1", False),
        ("http://localhost.evil.org", True),
        ("http://10.0.0.1", True),
        ("https://10.0.0.1", False),
    ],
)
def test_what_can_be_read_on_the_way(url: str, open_to_all: bool) -> None:
    assert in_the_clear(url) == open_to_all
