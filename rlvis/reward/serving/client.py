"""A scorer that asks servers: `rlvis serve` on this machine or others, or anything that speaks its wire.

What fails on the way is tried again, elsewhere where there is another server, with pauses that double and
seeded jitter; what the scorer itself complains about is raised at once, for the score stage
to deal with as with a local one. Unusual: once a call has used up its attempts, later ones do not wait for
servers that rest, so that a group of lost servers costs one wait and not one for each sample.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from torch import Tensor

from rlvis.reward.contract import Scores, joined
from rlvis.reward.facts import Facts
from rlvis.reward.serving import wire
from rlvis.reward.serving.background import Background, cancelled, first, together
from rlvis.reward.serving.exchange import Exchange, RefusedError, RemoteError, UnavailableError
from rlvis.reward.serving.servers import Server, Servers, address, in_the_clear
from rlvis.schema.key import Key

log = logging.getLogger(__name__)

LONGEST_PAUSE = 30.0  # seconds between two attempts
LARGEST = 2**27  # bytes of pixels in a request of several samples; half of what a server takes by default


class Remote:
    """Scores by a term of one or more servers, which must all serve the same.

    transport and loop stand in for the network and the clock in tests.
    Raises ValueError when no server can be asked, or none knows the term.
    """

    def __init__(
        self,
        urls: Annotated[Sequence[str], Key("base addresses such as http://127.0.0.1:8700", path=True)],
        term: Annotated[str | None, Key("its name there; null: the only one")] = None,
        token_env: Annotated[
            str | None, Key("environment variable with the servers' token; null: they want none")
        ] = "RLVIS_TOKEN",
        timeout: Annotated[
            float,
            Key(
                "for an answer, in which a server may score other requests first",
                "seconds",
                above=0,
                most=10**6,
            ),
        ] = 120.0,
        hedge: Annotated[
            float | None,
            Key(
                "after which a second server is asked too and the first answer counts; null: never",
                "seconds",
                above=0,
                most=10**6,
                relation="below timeout",
            ),
        ] = None,
        attempts: Annotated[
            int, Key("of a request, as long as twice the timeout has not passed", least=1, most=1000)
        ] = 6,
        rest: Annotated[
            float,
            Key("that a server is left alone after a failure (doubling)", "seconds", above=0, most=10**6),
        ] = 5.0,
        batch: Annotated[
            int, Key("of one request, fewer where they are large", "samples", least=1, most=65536)
        ] = 64,
        seed: Annotated[int, Key("of the pauses' jitter", least=-(2**63), most=2**63 - 1)] = 0,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    ) -> None:
        self.servers = Servers([address(url) for url in urls], rest)
        self.timeout, self.hedge, self.attempts, self.batch = timeout, hedge, attempts, batch
        self._chance = random.Random(seed)
        self._given_up, self._last_words = False, ""
        if open_to_all := [url for url in urls if in_the_clear(url)]:
            log.warning(
                "samples%s travel to %s in the clear: use https, or a tunnel such as ssh -L "
                "8700:127.0.0.1:8700 HOST with http://127.0.0.1:8700",
                *("" if token_env is None else " and the token", ", ".join(open_to_all)),
            )
        self._exchange = Exchange(token_env, timeout, transport)
        self._background = Background(loop)
        self.scorer = ""  # what the servers call the scorer of the term
        self.not_cached: str | None = None  # why its scores are drawn anew at each call
        try:
            self.term = self._background.run(self._introduced(term))
        except BaseException:
            self.close()
            raise

    @staticmethod
    def facts(kwargs: Mapping[str, Any]) -> Facts:
        urls, timeout, hedge = kwargs["urls"], kwargs["timeout"], kwargs["hedge"]
        if not urls:
            raise ValueError("urls=[]: wanted a list such as [http://127.0.0.1:8700]")
        for url in urls:
            address(url)
        if hedge is not None and hedge >= timeout:
            raise ValueError(f"hedge={hedge} with timeout={timeout}: wanted hedge below timeout")
        return Facts(weights=0)

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """The servers' scores of images uint8 [B, M, 3, Y, X], in their order.

        Raises UnavailableError when no server answered in the end, and RemoteError with the scorer's words.
        """
        return self._background.run(self._all(images, prompts, metadata))

    def close(self) -> None:
        """Let go of connections and of the thread."""
        self._background.run(self._exchange.close())
        self._background.close()

    async def _introduced(self, term: str | None) -> str:
        """Ask every server for its terms; the name of ours."""
        answers = await asyncio.gather(*(self._exchange.terms(one.url) for one in self.servers.all))
        known = [terms for terms in answers if isinstance(terms, dict)]
        if not known:
            raise ValueError(
                f"no reward server can be used: {'; '.join(map(str, answers))}; start one with rlvis serve "
                "reward=NAME"
            )
        now = asyncio.get_running_loop().time()
        for server, answer in zip(self.servers.all, answers, strict=True):
            if isinstance(answer, str):
                self.servers.bad(server, now, answer)
        for terms in known:
            if term is None and len(terms) == 1:
                term = next(iter(terms))
            if term not in terms:
                wanted = "a term has to be named" if term is None else f"there is no term {term!r}"
                raise ValueError(f"{wanted} at the reward servers; they score {', '.join(terms)}")
        assert term is not None
        self.scorer, self.not_cached = known[0][term]
        return term

    async def _all(
        self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]
    ) -> Scores:
        """All samples, in requests of `batch`; a server gets the next one while it scores the last."""
        slots = asyncio.Semaphore(2 * len(self.servers.all))
        batch = min(self.batch, max(1, LARGEST // max(1, images[0].numel())))

        async def some(start: int) -> Scores:
            rows = slice(start, start + batch)
            async with slots:
                scores = await self._insist(wire.encode(images[rows], prompts[rows], metadata[rows]))
            if len(images) > batch and len(scores.value) != len(images[rows]):  # others would move up
                raise RemoteError(f"{len(scores.value)} scores for {len(images[rows])} samples")
            return scores

        return joined(await together(some(start) for start in range(0, len(images), batch)))

    async def _insist(self, body: bytes) -> Scores:
        """One request, tried again as long as that may help."""
        clock = asyncio.get_running_loop().time
        started = clock()

        def enough(state: RetryCallState) -> bool:
            assert state.outcome is not None
            asleep = not self.servers.healthy(clock())
            return (
                self._given_up
                or state.attempt_number >= self.attempts
                or clock() - started >= 2 * self.timeout
                or (asleep and isinstance(state.outcome.exception(), RefusedError))
            )

        def pause(state: RetryCallState) -> float:
            if self.servers.healthy(clock()):
                return 0.0
            return min(LONGEST_PAUSE, 2.0 ** (state.attempt_number - 1)) * self._chance.uniform(0.5, 1.0)

        insisting = AsyncRetrying(
            stop=enough,
            wait=pause,
            sleep=asyncio.sleep,
            retry=retry_if_exception_type(UnavailableError),
            reraise=True,
        )
        try:
            scores: Scores = await insisting(self._once, body)
        except UnavailableError:
            self._given_up = True
            raise
        except RemoteError:
            self._given_up = False
            raise
        self._given_up = False
        return scores

    async def _once(self, body: bytes) -> Scores:
        """One attempt: a server, and after `hedge` seconds another one too. The first answer counts."""
        now = asyncio.get_running_loop().time
        if self._given_up and not self.servers.healthy(now()):
            count, last = len(self.servers.all), self._last_words
            raise UnavailableError(f"all {count} reward servers rest after failures, the last: {last}")
        chosen = self.servers.pick(now())
        if self.hedge is None:
            return await self._post(chosen, body)
        running = {asyncio.ensure_future(self._post(chosen, body))}
        try:
            done, _ = await asyncio.wait(running, timeout=self.hedge)
            if not done and (others := self.servers.healthy(now(), beside=chosen)):
                running.add(asyncio.ensure_future(self._post(others[0], body)))
            return await first(running, UnavailableError)
        finally:
            await cancelled(running)

    async def _post(self, server: Server, body: bytes) -> Scores:
        """The answer of one server; one that has none rests. Raises UnavailableError or RemoteError."""
        server.busy += 1
        server.asked += 1
        try:
            scores = await self._exchange.scores(server.url, self.term, body)
        except UnavailableError as error:
            self._last_words = str(error)
            self.servers.bad(server, asyncio.get_running_loop().time(), str(error))
            raise
        except RemoteError:
            self.servers.good(server)
            raise
        finally:
            server.busy -= 1
        self.servers.good(server)
        return scores
