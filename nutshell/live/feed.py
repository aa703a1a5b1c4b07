"""The requests that the live view knows, and the pages that are told about them."""

import asyncio
from collections import deque
from dataclasses import asdict
from time import time_ns
from typing import Any

from nutshell.live.trace import Trace

SHOWN = 200  # recent requests that a newly opened page shows
STARTED = str(time_ns())  # tells a page that it talks to another process

running: dict[int, Trace] = {}
recent: deque[Trace] = deque(maxlen=SHOWN)
listeners: set[asyncio.Queue[dict[str, Any]]] = set()


def show(trace: Trace) -> dict[str, Any]:
    if not trace.done:
        trace.total = trace.now()
    return asdict(trace) | {"process": STARTED}


def publish(trace: Trace) -> None:
    """Tells the pages about a request that has ended, or about what turned out later."""
    shown = show(trace)
    for listener in listeners:
        if not listener.full():  # a page that cannot follow misses some
            listener.put_nowait(shown)
