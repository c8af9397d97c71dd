"""Which of several servers to ask next: a healthy one with little to do, and none that just failed.

A server that fails rests, longer each time, and then counts as healthy again. Times are given in, seconds of
any clock, so that a test needs no waiting.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

LONGEST = 300.0  # seconds that a server rests at most


@dataclass(eq=False)
class Server:
    """One address: requests under way, failures since its last answer, and until when it rests."""

    url: str
    busy: int = 0
    asked: int = 0
    failures: int = 0
    until: float = 0.0


@dataclass
class Servers:
    """All addresses. rest: seconds that one is left alone after a failure; the next one doubles it, up to
    `longest`.
    """

    urls: Collection[str]
    rest: float
    longest: float = LONGEST
    all: list[Server] = field(init=False)

    def __post_init__(self) -> None:
        self.all = [Server(url) for url in self.urls]

    def healthy(self, now: float, beside: Server | None = None) -> list[Server]:
        """Those that do not rest, the one with the least to do first; without `beside`."""
        awake = [server for server in self.all if server.until <= now and server is not beside]
        return sorted(awake, key=lambda server: (server.busy, server.asked))

    def pick(self, now: float) -> Server:
        """The next to ask: a healthy one, or where all rest the one that may go on first."""
        awake = self.healthy(now)
        return awake[0] if awake else min(self.all, key=lambda server: server.until)

    def good(self, server: Server) -> None:
        """It answered."""
        if server.failures:
            log.info("%s answers again", server.url)
        server.failures, server.until = 0, 0.0

    def bad(self, server: Server, now: float, reason: str) -> None:
        """It failed, and rests; reason: in words, with its address. One that rests already goes on so."""
        if server.until > now:
            return
        server.failures += 1
        pause = min(self.longest, self.rest * 2 ** (server.failures - 1))
        server.until = now + pause
        log.warning("%s; it rests for %.0f s (failure %d)", reason, pause, server.failures)


def address(url: str) -> str:
    """A server's base address without a slash at its end. Raises ValueError where it is none."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port
        known = False
    if not known or not url.isascii() or not url.isprintable() or set(url) & set(" ?#"):
        raise ValueError(f"{url!r} is no server's address; wanted for example http://127.0.0.1:8700")
    if "@" in parts.netloc:
        raise ValueError(
            "a server's address holds a user or password, which would reach logs and run folders; keep the "
            "token in the environment variable that token_env names"
        )
    return url.rstrip("/")


def loopback(host: str) -> bool:
    """Whether a host is this machine and nothing else."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def in_the_clear(url: str) -> bool:
    """Whether what is sent to an address can be read on the way: plain http to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not loopback(parts.hostname or "")
