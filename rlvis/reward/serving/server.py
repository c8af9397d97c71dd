"""A reward as a service: scores of the samples that are posted, to who has the token.

POST /score/TERM, GET /terms and /metrics want the token; GET /health does not. Unusual: a body is read only
once its sender may be served and a place is free, never beyond the limit, and makes room when it stalls while
others wait; scorers (which are not thread-safe) run one at a time in one thread, so that the next body
arrives meanwhile. Whatever a request does, it gets an answer in words and one line in the log, and the server
lives.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import re
import time
import traceback
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from torch import Tensor

from rlvis.reward import cache
from rlvis.reward.contract import Term
from rlvis.reward.serving import wire
from rlvis.reward.serving.counts import Counts

log = logging.getLogger(__name__)

PLACES = 4  # bodies in memory at once; the senders of others wait
PATIENCE = 60.0  # seconds for a body to arrive
STALLED = 2.0  # seconds without a byte after which a body makes room for those that wait
SECRET = re.compile(r"(key|token|secret|passwd|password|credentials?)$", re.IGNORECASE)
PATH = re.compile(r"(?<![\w.:/])/(?:[^\s/'\":]+/)+")


class Service:
    """The terms behind an address, and what was asked of them.

    Args: terms; token, None: anybody may ask; max_body, bytes of a request; scorers, what each term's scorer
    is called; patience, seconds for a body to arrive; stalled, seconds without a byte after which it makes
    room.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        token: str | None,
        max_body: int = 2**28,
        scorers: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
        stalled: float = STALLED,
    ) -> None:
        self.terms = {term.name: term for term in terms}
        self.scorers = {name: (scorers or {}).get(name, name) for name in self.terms}
        self.counts = Counts(list(self.terms))
        self._token, self._max_body = token, max_body
        self._patience, self._stalled = patience, stalled
        self._places, self._waiting = asyncio.Semaphore(PLACES), 0
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scorer")

    def application(self) -> Starlette:
        """The routes, for uvicorn or any other ASGI server."""
        routes = [
            Route("/health", self.health),
            Route("/terms", self.list_terms),
            Route("/metrics", self.metrics),
            Route("/score/{term}", self.score, methods=["POST"]),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: self._refused})

    async def health(self, request: Request) -> Response:
        """Whether scorers are loaded (they are, before the port opens), and their names."""
        return JSONResponse({"ready": True, "terms": list(self.terms)})

    async def list_terms(self, request: Request) -> Response:
        """Names, weights, scorers, and whose scores are not to be kept."""
        self._admit(request)
        terms = [
            {
                "name": name,
                "weight": term.weight,
                "scorer": self.scorers[name],
                "not_cached": cache.not_cached(term.scorer),
            }
            for name, term in self.terms.items()
        ]
        return JSONResponse({"terms": terms})

    async def metrics(self, request: Request) -> Response:
        """Counters in Prometheus' text format."""
        self._admit(request)
        return PlainTextResponse(self.counts.text(), media_type="text/plain; version=0.0.4")

    async def score(self, request: Request) -> Response:
        """Scores of the samples in a body, as `wire.answer` writes them."""
        self._admit(request)
        term = self.terms.get(request.path_params["term"])
        if term is None:
            raise HTTPException(404, f"there is no such term; this server scores {', '.join(self.terms)}")
        length = self._length(request)
        async with self._place():
            try:
                async with asyncio.timeout(self._patience):
                    body = await self._body(request, length)
                images, prompts, metadata = wire.decode(body)
            except wire.WireError as error:
                raise HTTPException(400, str(error)) from error
            except TimeoutError as error:
                raise HTTPException(408, f"the body did not arrive in {self._patience:g} s") from error
            except ClientDisconnect as error:
                raise HTTPException(400, "the sender left before its body was whole") from error
            async with self._turn:
                if await request.is_disconnected():  # another server was faster, or the time was up
                    raise HTTPException(400, "the sender left before its turn")
                work = partial(self._scored, term, images, prompts, metadata)
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """A place for a body, once one is free."""
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()

    def _scored(
        self, term: Term, images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]
    ) -> Response:
        """One call of a scorer, in the thread that all of them share."""
        start = time.perf_counter()
        try:
            scores = term.ask(images, prompts, metadata)
            seconds = time.perf_counter() - start
            answer = wire.answer(scores, seconds)
        except Exception as error:  # whatever a scorer raises is an answer, and the next request another call
            self.counts.scored(term.name, len(prompts), len(prompts), time.perf_counter() - start)
            trace = masked(traceback.format_exc(), self._token)
            log.error("term %s failed on %d samples\n%s", term.name, len(prompts), trace)
            words = public_words(error, self._token)
            return JSONResponse({"error": words, "kind": "scorer"}, status_code=500)
        good = sum(
            ok and value is not None for ok, value in zip(answer["valid"], answer["value"], strict=True)
        )
        self.counts.scored(term.name, len(prompts), max(0, len(prompts) - good), seconds)
        return JSONResponse(answer)

    def _admit(self, request: Request) -> None:
        """Raise HTTPException where the token is wanted and not there."""
        if self._token is None:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self._token.encode())
        if kind.lower() != "bearer" or not same:
            raise HTTPException(401, "wanted the header Authorization: Bearer TOKEN with this server's token")

    def _length(self, request: Request) -> int | None:
        """The length that a request claims for its body, where it does."""
        claimed = request.headers.get("content-length")
        if claimed is None:
            return None
        if not (claimed.isascii() and claimed.isdecimal() and len(claimed) < 20):
            raise HTTPException(400, "the header Content-Length is no number")
        if int(claimed) > self._max_body:
            raise HTTPException(413, self._too_large(f"a body of {claimed} bytes"))
        return int(claimed)

    async def _body(self, request: Request, length: int | None) -> bytearray:
        content = bytearray()
        async for piece in self._moving(request.stream()):
            content += piece
            if len(content) > self._max_body:
                raise HTTPException(413, self._too_large("a body"))
        if length is not None and len(content) != length:
            raise HTTPException(400, f"the body has {len(content)} bytes, and its header says {length}")
        return content

    async def _moving(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The pieces of a body. Raises HTTPException once it stalls while others wait for its place."""
        while True:
            coming = asyncio.ensure_future(anext(pieces, None))
            try:
                while not (await asyncio.wait({coming}, timeout=self._stalled))[0]:
                    if self._waiting:
                        raise HTTPException(
                            408, f"no byte of the body came for {self._stalled:g} s, and others wait"
                        )
            finally:
                coming.cancel()
            if (piece := coming.result()) is None:
                return
            yield piece

    def _too_large(self, what: str) -> str:
        return (
            f"{what} is above this server's limit of {self._max_body} bytes; start it with max_body_mb=N, or "
            "send fewer samples at a time"
        )

    async def _refused(self, request: Request, error: Exception) -> Response:
        """The answer to a request that is not served."""
        assert isinstance(error, HTTPException)
        sender = "?" if request.client is None else request.client.host
        self.counts.refused(error.status_code)
        log.warning(
            "refused %s %.80r from %s (%d): %s",
            *(request.method, request.url.path, sender, error.status_code, error.detail),
        )
        headers = dict(error.headers or {})
        if error.status_code == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=headers)


def public_words(error: Exception, token: str | None = None) -> str:
    """What a sender learns of an exception: its kind and words in one line, without folders and secrets."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return PATH.sub(".../", masked(words, token))[:500]


def masked(words: str, token: str | None = None) -> str:
    """Text without the token and without the values of environment variables that hold secrets."""
    secrets = {value for name, value in os.environ.items() if SECRET.search(name) and len(value) > 5}
    for secret in sorted(secrets | ({token} if token else set()), key=len, reverse=True):
        words = words.replace(secret, "***")
    return words
