"""Scorers and reward servers that fail, each in its way, as terms to train with."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from rlvis.reward.contract import Term
from rlvis.reward.function import Function
from rlvis.reward.serving.client import Remote
from rlvis.reward.serving.hosting import hosted
from rlvis.reward.serving.server import Service

Job = Callable[[Tensor, list[str], list[dict[str, Any]]], Any]
NAMES = ("calls fail", "pictures fail", "server dies", "garbage answers", "late answers", "hedged")


def chance_call(honest: Job, chance: random.Random) -> Job:
    """Three calls in ten raise."""

    def call(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Any:
        if chance.random() < 0.3:
            raise RuntimeError("out of luck")
        return honest(images, prompts, metadata)

    return call


def picky_call(honest: Job) -> Job:
    """Raises on one picture in sixteen, always the same ones."""

    def call(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Any:
        if any(zlib.crc32(image.contiguous().numpy().tobytes()) % 16 == 0 for image in images):
            raise ValueError("this picture does not open")
        return honest(images, prompts, metadata)

    return call


class Mortal:
    """`rlvis serve` in a process of its own, on one port through all its lives."""

    def __init__(self, words: Sequence[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = "import sys; from rlvis.cli import main; sys.exit(main(sys.argv[1:]))"
        self.command = [sys.executable, "-c", command, "serve", *words, f"port={self.port}"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin a life; it answers some seconds later."""
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self) -> None:
        """Until it listens."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            with socket.socket() as line:
                if line.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("the server does not start")

    def kill(self) -> None:
        """End it as a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def mortal_call(client: Remote, server: Mortal) -> Job:
    """Kills the server before the fifth call, and starts it again, which takes seconds. Some calls later
    it is waited for, so that the end of a short run meets it alive.
    """
    count = [0]

    def call(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Any:
        count[0] += 1
        if count[0] == 5:
            server.kill()
            server.start()
        if count[0] == 18:
            server.wait()
            time.sleep(max(0.0, client.servers.all[0].until - time.monotonic()))
        return client(images, prompts, metadata)

    return call


def troubled(application: Any, share: float, chance: random.Random, trouble: str) -> Any:
    """The application, with a share of its scores replaced by garbage, or a second late."""
    garbage = (b"\x93NUMPY\x01\x00", b'{"value": [0, 0', b'{"value": ["0"], "valid": [true]}', b"<html>")

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if not scope["path"].startswith("/score/") or chance.random() >= share:
            await application(scope, receive, send)
            return
        if trouble == "late":
            await asyncio.sleep(1.0)
            await application(scope, receive, send)
            return
        while (await receive()).get("more_body"):
            pass
        body = chance.choice(garbage)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return answer


@contextmanager
def faulty(honest: Term, name: str) -> Iterator[tuple[Term, str]]:
    """The term with that fault, and the executor to train with."""
    chance = random.Random(0)
    assert isinstance(honest.scorer, Function)
    if name == "calls fail":
        yield replace(honest, scorer=Function(chance_call(honest.scorer.function, chance))), "inline"
        return
    if name == "pictures fail":
        yield replace(honest, scorer=Function(picky_call(honest.scorer.function))), "thread"
        return
    if name == "server dies":
        mortal = Mortal(["reward=jpeg"])
        mortal.start()
        try:
            mortal.wait()
            client = Remote([mortal.url], attempts=2, rest=0.5)
            yield replace(honest, scorer=Function(mortal_call(client, mortal))), "thread"
            client.close()
        finally:
            mortal.kill()
        return
    application = Service([honest], os.environ["RLVIS_TOKEN"]).application()
    share, trouble = (1.0, "late") if name == "hedged" else (0.4, name.split()[0])
    spoilt = troubled(application, share, chance, trouble)
    with hosted(spoilt) as bad, hosted(application) as good:
        if name == "hedged":
            client = Remote([bad, good], timeout=5.0, hedge=0.2)
        else:
            client = Remote([bad], timeout=0.4, attempts=1, rest=0.01)
        yield replace(honest, scorer=client), "thread"
        client.close()
