"""An OpenAI-compatible endpoint for tests: starlette in a thread, its answers set by each test."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# What an answer is: its text; or a status with a body and headers.
Reply = str | tuple[int, str, dict[str, str]]


@dataclass
class Endpoint:
    """reply: called with a question's texts and pictures; requests, headers: bodies and headers so far."""

    url: str = ""
    reply: Callable[[list[str], list[Tensor]], Reply] = lambda texts, pictures: "Final Score: 3"
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def decoded(url: str) -> Tensor:
    """A picture uint8 [3, Y, X] from its data URL."""
    data = base64.b64decode(url.partition("base64,")[2])
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).permute(2, 0, 1)


@contextmanager
def serving() -> Iterator[Endpoint]:
    """A running endpoint."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    here = Endpoint()

    async def complete(request: Request) -> Response:
        body = json.loads(await request.body())
        with here.lock:
            here.requests.append(body)
            here.headers.append(dict(request.headers))
        parts = body["messages"][0]["content"]
        texts = [part["text"] for part in parts if part["type"] == "text"]
        pictures = [decoded(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]
        reply = await run_in_threadpool(here.reply, texts, pictures)
        if isinstance(reply, str):
            message = {"role": "assistant", "content": reply}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return Response(json.dumps({"id": "1", "choices": [choice]}), media_type="application/json")
        status, content, headers = reply
        return Response(content, status, headers)

    app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    here.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    try:
        yield here
    finally:
        server.should_exit = True
        thread.join()
