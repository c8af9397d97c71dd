"""Questions with pictures to an OpenAI-compatible endpoint (vLLM, SGLang, a hosted model), many at a time.

What may pass is tried again with growing pauses: 408, 409, 425, 429 (for as long as Retry-After says), 5xx,
timeouts, lost connections. Whatever is no answer in the end is returned as the reason, not raised: one bad
answer costs one sample. The key is read from the environment with each connection, sent to the endpoint
alone, and stands in no message, no log line and no object that could be written.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from torch import Tensor

from rlvis.reward.serving.servers import loopback

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

PASSING = (408, 409, 425, 429)  # statuses below 500 that another attempt may not meet
LONGEST_PAUSE = 60.0  # seconds between two attempts
FORMATS = ("png", "jpeg")

# What a question holds: text, or a picture as a data URL, in order.
Part = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """The text of an answer, or why there is none. away: the endpoint is not there, or has no time."""

    text: str | None
    reason: str = ""
    away: bool = False


class _AgainError(RuntimeError):
    """An attempt that failed in a way that may pass. after: seconds that the endpoint asked for. away: nobody
    answered, or that there is no answer now.
    """

    def __init__(self, message: str, after: float = 0.0, *, away: bool = True) -> None:
        super().__init__(message)
        self.after, self.away = after, away


class Chat:
    """One model at one endpoint.

    Args: model, its name there; base_url, with the version, as http://127.0.0.1:8000/v1; key_env, the
    environment variable that holds the key, None for servers that want none; temperature, None leaves it to
    the endpoint; max_tokens, of an answer; options, further fields of the request; timeout, seconds to wait
    for an answer's next byte; attempts, of a question; concurrency, questions at a time. transport and sleep
    stand in for the network and the clock in tests.
    Raises ValueError for an address that is none, and a variable without a key.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        key_env: str | None = None,
        temperature: float | None = 0.0,
        max_tokens: int = 512,
        options: Mapping[str, Any] | None = None,
        timeout: float = 60.0,
        attempts: int = 5,
        concurrency: int = 8,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise ValueError(
                "vlm: base_url: wanted an address such as http://127.0.0.1:8000/v1, without a name or a "
                "password in it; a key goes into an environment variable, named by key_env"
            )
        self.url, self.model, self.key_env = f"{base_url.rstrip('/')}/chat/completions", model, key_env
        self.fields = {"max_tokens": max_tokens, **dict(options or {})}
        if temperature is not None:
            self.fields["temperature"] = temperature
        self.timeout, self.attempts, self.concurrency = timeout, attempts, concurrency
        self._transport, self._sleep = transport, sleep
        self._client: httpx.Client | None = None
        self.here = loopback(parts.hostname)
        if self._key() and parts.scheme == "http" and not self.here:
            log.warning("vlm: pictures and the key in %s travel to %s in the clear", key_env, parts.hostname)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}  # it holds the key, and a connection travels nowhere

    def ask(self, questions: Sequence[Callable[[], list[Part]]]) -> list[Answer]:
        """Answers in order. A question is built when its turn has come, so that few pictures wait as text."""
        if self._client is None:
            self._client = self._connected()
        with ThreadPoolExecutor(min(self.concurrency, max(1, len(questions)))) as pool:
            return list(pool.map(self._one, questions))

    def _connected(self) -> httpx.Client:
        import httpx

        key = self._key()
        return httpx.Client(
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(self.timeout, pool=None),
            limits=httpx.Limits(max_connections=self.concurrency),
            trust_env=not self.here,  # a proxy of the environment has nothing to do with this machine
            transport=self._transport,
        )

    def _key(self) -> str:
        if self.key_env is None:
            return ""
        key = os.environ.get(self.key_env, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise ValueError(
                f"vlm: the environment variable {self.key_env} holds no key; type export "
                f"{self.key_env}=..., or key_env=null for an endpoint that wants none"
            )
        return key

    def _one(self, question: Callable[[], list[Part]]) -> Answer:
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

        def pause(state: Any) -> float:
            after: float = state.outcome.exception().after
            doubled: float = 2.0 ** (state.attempt_number - 1)
            return min(LONGEST_PAUSE, max(after, doubled))

        message = {"model": self.model, "messages": [{"role": "user", "content": question()}]}
        insisting = Retrying(
            stop=stop_after_attempt(self.attempts),
            wait=pause,
            sleep=self._sleep,
            retry=retry_if_exception_type(_AgainError),
            reraise=True,
        )
        try:
            answer: Answer = insisting(self._post, message)
        except _AgainError as error:
            return Answer(None, f"{error}, {self.attempts} times", error.away)
        return answer

    def _post(self, message: Mapping[str, Any]) -> Answer:
        """One attempt. Raises _AgainError where another may help."""
        import httpx

        assert self._client is not None
        fields = self.fields
        body = json.dumps({**message, **fields}).encode()
        try:
            response = self._client.post(self.url, content=body, headers={"content-type": "application/json"})
        except httpx.TimeoutException as error:
            raise _AgainError(f"no answer within {self.timeout:g} s") from error
        except httpx.TransportError as error:
            raise _AgainError(f"{type(error).__name__}") from error
        status = response.status_code
        if status == 400 and "max_tokens" in fields and "max_completion_tokens" in response.text:
            self._rename_limit()
            return self._post(message)
        if status in PASSING or status >= 500:
            words = f"status {status}: {self._shown(response.text)}".removesuffix(": ")
            raise _AgainError(words, _seconds(response.headers.get("retry-after", "")))
        if status in (401, 403):  # whose text may repeat the key
            source = "a request without a key" if self.key_env is None else f"the key in {self.key_env}"
            return Answer(None, f"the endpoint refuses {source} (status {status})")
        if status != 200:
            return Answer(None, f"status {status}: {self._shown(response.text)}")
        try:
            choice = json.loads(response.content)["choices"][0]
            return self._read(choice["message"], choice.get("finish_reason"))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise _AgainError("an answer that is no chat completion", away=False) from None

    def _rename_limit(self) -> None:
        """The endpoint takes the limit under its newer name alone."""
        fields = dict(self.fields)
        limit = fields.pop("max_tokens", None)
        if limit is not None:
            self.fields = {"max_completion_tokens": limit, **fields}
            log.info("vlm: %s wants max_completion_tokens in place of max_tokens, and gets it", self.url)

    def _read(self, message: Mapping[str, Any], finish: str | None) -> Answer:
        """The text of a message; what a model thought aloud counts where it said nothing else and came to an
        end.
        """
        said = _plain_text(message.get("content"))
        if said:
            return Answer(said)
        thought = _plain_text(message.get("reasoning_content")) or _plain_text(message.get("reasoning"))
        if finish == "length":
            limit = next(v for k, v in [*self.fields.items(), ("", "?")] if k.startswith("max_") or not k)
            doing = "thinking" if thought else "silent"
            return Answer(None, f"still {doing} after {limit} tokens: max_tokens is too small")
        return Answer(thought) if thought else Answer(None, "an answer without text")

    def _shown(self, text: str) -> str:
        key = self._key()
        short = " ".join(text.split())[:200]
        return short.replace(key, "***") if key else short


def _plain_text(content: Any) -> str:
    """Of a message's content, which may be a list of parts; empty where there is none."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) and content.strip() else ""


def text(words: str) -> Part:
    """Text in a question."""
    return {"type": "text", "text": words}


def picture(frame: Tensor, kind: str = "png", quality: int = 95) -> Part:
    """A frame uint8 [3, Y, X] in a question. kind: "png", or "jpeg" with its quality."""
    from PIL import Image

    buffer = io.BytesIO()
    pixels = frame.permute(1, 2, 0).contiguous().cpu().numpy()
    keywords: dict[str, Any] = {"quality": quality} if kind == "jpeg" else {"compress_level": 1}
    Image.fromarray(pixels).save(buffer, format=kind.upper(), **keywords)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{encoded}"}}


def _seconds(header: str) -> float:
    """Retry-After in seconds; 0 where it is a date, or nothing."""
    try:
        value = float(header)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) and value > 0 else 0.0
