"""An ASGI application on a loopback port of this process while a block runs: for trials, drills and tests."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def hosted(application: Any, port: int = 0) -> Iterator[str]:
    """Serve from a thread, and give the address; port 0: any that is free."""
    import uvicorn

    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("127.0.0.1", port))
    settings = uvicorn.Config(application, log_config=None, access_log=False, lifespan="off", ws="none")
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
    finally:
        server.force_exit = server.should_exit = True
        thread.join()
        taken.close()
