"""One request to one server, and what came of it: scores, or which of three kinds of failure.

Nothing here tries again or chooses; no message and no log line holds the token.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx

from rlvis.reward.away import AwayError
from rlvis.reward.contract import Scores
from rlvis.reward.serving import wire

LARGEST_ANSWER = 64 * 2**20  # bytes
FIRST_LOOK = 10.0  # seconds that a server has to name its terms at the start
BODY = (400, 411, 413, 415, 422)  # what is wrong with a request, wherever it is sent


class UnavailableError(AwayError):
    """A server gave no usable answer; the same request may have one elsewhere, or later."""


class RefusedError(UnavailableError):
    """A server does not want us (a token, an address): waiting does not help."""

    away = False


class RemoteError(RuntimeError):
    """The answer is that these samples cannot be scored: the scorer's words."""


class TermInfo(NamedTuple):
    """What a server says of a term: its scorer, and why its scores are not to be kept (see `cache.wrap`)."""

    scorer: str
    not_cached: str | None


class Exchange:
    """Speaks the wire to any server. transport: stands in for the network in tests.

    Raises ValueError when the environment variable token_env holds no token.
    """

    def __init__(
        self, token_env: str | None, timeout: float, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.token_env, self.timeout = token_env, timeout
        headers = {"accept": "application/json"}
        if token_env is not None:
            headers["authorization"] = f"Bearer {_token(token_env)}"
        # Never by a proxy or a .netrc of the environment: both would see, or replace, the token. And the
        # time limit is ours: httpx has one for each piece of an answer, not for the whole.
        self._client = httpx.AsyncClient(headers=headers, timeout=None, trust_env=False, transport=transport)

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.aclose()

    async def terms(self, url: str) -> dict[str, TermInfo] | str:
        """The terms of one server by name, or why it cannot be used."""
        try:
            async with asyncio.timeout(min(self.timeout, FIRST_LOOK)):
                status, content = await self._bytes("GET", f"{url}/terms")
        except TimeoutError:
            return f"{url} says nothing"
        except httpx.RequestError as error:
            return f"{url} cannot be reached ({_words(error)})"
        if status != 200:
            return f"{url} {self._reason(status, content)}"
        try:
            listed = json.loads(content)["terms"]
            return {str(one["name"]): TermInfo(str(one["scorer"]), one.get("not_cached")) for one in listed}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return f"{url} is no reward server of rlvis"

    async def scores(self, url: str, term: str, body: bytes) -> Scores:
        """The scores that a server gives. Raises one of the failures above, with the address."""
        try:
            async with asyncio.timeout(self.timeout):
                status, content = await self._bytes("POST", f"{url}/score/{quote(term, safe='')}", body)
            if status == 200:
                return wire.read_answer(content)
        except TimeoutError as error:
            raise UnavailableError(f"{url} gave no answer within {self.timeout:g} s") from error
        except httpx.RequestError as error:
            raise UnavailableError(f"{url} cannot be reached ({_words(error)})") from error
        except wire.WireError as error:
            raise UnavailableError(f"{url} gave {error}") from error
        reason = f"{url} {self._reason(status, content)}"
        if status in BODY or (status == 500 and _fields(content).get("kind") == "scorer"):
            raise RemoteError(reason)
        raise (RefusedError if 300 <= status < 500 and status not in (408, 425, 429) else UnavailableError)(
            reason
        )

    async def _bytes(self, method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and content of an answer. Raises WireError for one that never ends."""
        headers = {} if body is None else {"content-type": wire.MEDIA_TYPE}
        async with self._client.stream(method, url, content=body, headers=headers) as response:
            content = bytearray()
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > LARGEST_ANSWER:
                    raise wire.WireError(f"an answer of more than {LARGEST_ANSWER} bytes")
            return response.status_code, bytes(content)

    def _reason(self, status: int, content: bytes) -> str:
        if status in (401, 403):
            source = (
                "a request without a token" if self.token_env is None else f"the token in {self.token_env}"
            )
            return f"refuses {source} (status {status})"
        words = str(_fields(content).get("error", "no reason"))[:500]
        return f"answered with status {status}: {words}"


def _token(name: str) -> str:
    token = os.environ.get(name, "")
    if not token.isascii() or not token.isprintable() or not token.strip():
        raise ValueError(
            f"the environment variable {name} holds no token for the reward servers; rlvis serve prints one: "
            f"type export {name}=..., or token_env=null for servers that want none"
        )
    return token.strip()


def _fields(content: bytes) -> dict[str, Any]:
    """An error answer's fields; none where it is not JSON."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
