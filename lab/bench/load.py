"""The load: wrk, on cores of its own or on all."""

import json
import math
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.bench.candidates import Running

ROWS = 10_000  # users with the ids from 1


@dataclass(frozen=True)
class Setting:
    title: str
    connections: int
    server: Sequence[int] = ()  # its cores; all of them if empty
    others: Sequence[int] = ()  # those of the load and of the database


PINNED = Setting("the server on a core of its own", 16, (0,), (1,))
SHARED = Setting("shared cores, 16 connections", 16)
CROWDED = Setting("shared cores, 64 connections", 64)
SETTINGS = [PINNED, SHARED, CROWDED]


@dataclass
class Figure:
    rate: float  # requests per second
    cpu: float  # µs per request; infinite without an answer
    p99: float  # ms; likewise
    refused: int  # answers that were not 2xx, and broken connections

    def __str__(self) -> str:
        if not self.rate:
            return "no answer"
        return f"{self.rate:,.0f} · {self.cpu:,.0f} · {self.p99:.0f}"


def load(
    running: Running,
    operation: str,
    prefix: str,
    *,
    seconds: int,
    connections: int = 16,
    cores: Sequence[int] = (),
) -> Figure:
    """Sends as many requests as it can. `operation` is one of OPERATIONS, or a path to GET."""
    script = str(Path(__file__).with_name("load.lua"))
    wrk = ["wrk", "--threads", "1", "--connections", str(connections)]
    wrk += ["--duration", f"{seconds}s", "--timeout", "10s", "--script", script, running.url]
    if cores:
        wrk = ["taskset", "--cpu-list", ",".join(map(str, cores)), *wrk]
    before = running.cpu()
    done = subprocess.run(
        [*wrk, "--", operation, str(ROWS), prefix],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=True,
    )
    spent = running.cpu() - before
    seen = json.loads(done.stdout.splitlines()[-1])
    if not seen["requests"]:  # all its threads may wait: docs/performance.md says why
        return Figure(0, math.inf, math.inf, seen["broken"])
    return Figure(
        rate=seen["requests"] / seen["duration"] * 1e6,
        cpu=spent / seen["requests"] * 1e6,
        p99=seen["p99"] / 1000,
        refused=seen["refused"] + seen["broken"],
    )
