"""Servers in this process, clocks that do not wait, and scorers that tell whose picture they saw."""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import torch
from torch import Tensor

from rlvis.reward.contract import Term
from rlvis.reward.function import Function
from rlvis.reward.serving import wire
from rlvis.reward.serving.client import Remote
from rlvis.reward.serving.hosting import hosted
from rlvis.reward.serving.server import Service

TOKEN = "a-token-that-is-long-enough"


def pictures(levels: Sequence[int]) -> Tensor:
    """uint8 [B, 1, 3, 2, 2], each of one level."""
    return torch.tensor(levels, dtype=torch.uint8).reshape(-1, 1, 1, 1, 1).expand(-1, 1, 3, 2, 2).contiguous()


def level(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> list[float]:
    """The level of each picture."""
    return images[:, 0, 0, 0, 0].double().tolist()


def term(function: Callable[..., Any], name: str = "own", weight: float = 1.0) -> Term:
    """A function as a term."""
    return Term(name, Function(function), weight)


class _Selector(selectors.SelectSelector):
    """Where nothing happens, the clock moves on instead of the thread waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        events = super().select(0 if timeout is not None else None)
        if not events and timeout:
            self.now += timeout
        return events


class Hurried(asyncio.SelectorEventLoop):
    """An event loop whose sleeps and time limits pass at once; `time` is what would have passed."""

    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


class Net(httpx.AsyncBaseTransport):
    """Servers by host name, each a coroutine `request, body -> Response`; asked: (host, path, when)."""

    def __init__(self, **hosts: Callable[[httpx.Request, bytes], Any]) -> None:
        self.hosts, self.asked = hosts, []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        now = asyncio.get_running_loop().time()
        self.asked.append((request.url.host, request.url.path, now))
        return await self.hosts[request.url.host](request, await request.aread())

    @property
    def scored(self) -> list[str]:
        """Hosts that were asked for scores, in order."""
        return [host for host, path, _ in self.asked if path.startswith("/score/")]


TERMS = {"terms": [{"name": "own", "weight": 1.0, "scorer": "level", "not_cached": None}]}


def answering(body: bytes) -> httpx.Response:
    """The levels of a request's pictures."""
    images, prompts, metadata = wire.decode(body)
    value = level(images, prompts, metadata)
    return httpx.Response(200, json={"value": value, "valid": [True] * len(value), "seconds": 0.0})


def host(
    scores: Callable[[bytes], Any] = answering, delay: Callable[[], float] = lambda: 0.0
) -> Callable[[httpx.Request, bytes], Any]:
    """A server of one term. scores: body -> Response, may raise; delay: seconds before each answer."""

    async def answer(request: httpx.Request, body: bytes) -> httpx.Response:
        if request.url.path == "/terms":
            return httpx.Response(200, json=TERMS)
        await asyncio.sleep(delay())
        return scores(body)

    return answer


@contextmanager
def remote(net: Net, **kwargs: Any) -> Iterator[Remote]:
    """A client of all hosts of `net`, on a clock that does not wait."""
    urls = [f"https://{name}" for name in net.hosts]
    scorer = Remote(urls, transport=net, loop=Hurried, **({"token_env": None} | kwargs))
    try:
        yield scorer
    finally:
        scorer.close()


def later(client: Remote, seconds: float = 30.0) -> Callable[..., Any]:
    """The client, asked so long after its last call: a clock that never waits does not run by itself."""

    def ask(*call: Any) -> Any:
        loop = client._background._loop
        assert isinstance(loop, Hurried)
        loop.selector.now += seconds
        return client(*call)

    return ask


@contextmanager
def served(terms: Sequence[Term], token: str | None = TOKEN, port: int = 0, **kwargs: Any) -> Iterator[str]:
    """The address of a real server on a loopback port."""
    with hosted(Service(terms, token, **kwargs).application(), port) as address:
        yield address


def content(response: httpx.Response) -> dict[str, Any]:
    """The JSON of an answer."""
    return json.loads(response.content)
