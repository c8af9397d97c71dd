"""Whether a scorer failed because something it needs is away (reward.patience): a connection, a server, a
process, rather than these samples.
"""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool

# What clients that we do not import call it; a name in the method resolution order is enough.
NAMES = {
    "APIConnectionError",
    "APITimeoutError",
    "ActorDiedError",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionError",
    "InternalServerError",
    "NetworkError",
    "RayActorError",
    "ReadTimeout",
    "RemoteProtocolError",
    "Timeout",
    "TimeoutException",
    "URLError",
}
PASSING = (408, 425, 429)  # statuses below 500 that another attempt may not meet


class AwayError(ConnectionError):
    """A scorer of ours cannot be asked now. insisted: it was asked again and again already."""

    def __init__(self, message: str, insisted: bool = False) -> None:
        super().__init__(message)
        self.insisted = insisted


def is_away(error: BaseException) -> bool:
    """Whether the same call may work later, when what is away is back; its causes are looked at too."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if (said := getattr(current, "away", None)) is not None:
            return bool(said)
        status = _status(current)
        if status is not None:
            return status >= 500 or status in PASSING
        if isinstance(current, ConnectionError | TimeoutError | BrokenProcessPool | EOFError):
            return True
        if any(kind.__name__ in NAMES for kind in type(current).__mro__):
            return True
        current = current.__cause__
    return False


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error carries, as requests, httpx, openai and urllib do; None where none."""
    response = getattr(error, "response", None)
    for holder in (error, response):
        for name in ("status_code", "code", "status"):
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and 100 <= value < 600:
                return value
    return None
