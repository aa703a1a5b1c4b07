"""What the live view knows of one request: the spans of its life, and what they say in words."""

import linecache
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter, time
from types import FrameType
from typing import Any

from greenlet import getcurrent  # type: ignore[import-untyped]

from nutshell import database

MACHINERY = Path(__file__).parents[1]
ROOT = MACHINERY.parent
# On the way from the program to the database.
PASSED_BY = [str(MACHINERY / name) for name in ("live/trace.py", "live/observer.py", "engines.py")]
LONG = 300  # letters of one parameter
SAME = 3  # times that the same SELECT is run before it looks like an N+1
CLOCK = (time() - perf_counter()) * 1000  # ms from perf_counter's zero to that of Unix time

numbers = count(1)


@dataclass
class Span:
    """A stretch in the life of a request, in ms from its start. The kinds, from the outside in:

    session (from the first need of a connection to its return), wait and connect; transaction,
    begin, commit and rollback; sql. And sent, the moment when the response was out.
    """

    kind: str
    start: float
    end: float | None = None  # None: it is under way
    text: str = ""  # the statement, or the pool
    parameters: str = ""
    rows: int | None = None
    failed: bool = False
    opened: bool = False  # a connection that the pool did not have
    line: str = ""  # of the program, from where the database was asked
    code: str = ""


@dataclass
class Trace:
    """One request: what it asked, and the spans of its life."""

    method: str
    path: str
    keyed: bool = False
    number: int = field(default_factory=lambda: next(numbers))
    at: float = 0  # ms of Unix time
    route: str = ""
    first: bool = False  # of its route, since the process started
    status: int = 500
    total: float = 0  # ms, so far
    done: bool = False
    spans: list[Span] = field(default_factory=list)
    log: list[str] = field(default_factory=list)  # warnings and errors
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = perf_counter() * 1000
        self.at = CLOCK + self.began
        self.step: Span | None = None  # with the database, under way
        self.transaction: Span | None = None
        self.strays: dict[str, Span] = {}  # sessions that took a connection without a turn, by pool
        self.sessions: set[int] = set()
        self.left_open = False

    def now(self) -> float:
        return perf_counter() * 1000 - self.began

    def open(self, kind: str, **more: Any) -> Span:
        span = Span(kind, self.now(), **more)
        self.spans.append(span)
        return span

    def shut(self, span: Span | None) -> None:
        if span is not None and span.end is None:
            span.end = self.now()

    def begin(self, kind: str, **more: Any) -> Span:
        """Begins a step with the database, and with that ends the one before."""
        self.finish()
        if kind == "begin":
            self.transaction = self.open("transaction")
        line, code = find_line()
        self.step = self.open(kind, line=line, code=code, **more)
        return self.step

    def finish(self) -> None:
        if (step := self.step) is None:
            return
        self.shut(step)
        if step.kind in ("commit", "rollback") and self.transaction is not None:
            self.transaction.end = step.end
        self.step = None

    def of(self, *kinds: str) -> list[Span]:
        return [span for span in self.spans if span.kind in kinds]

    def spent(self, *kinds: str) -> float:
        return sum((span.end or self.now()) - span.start for span in self.of(*kinds))

    def server_timing(self) -> str:
        """For the browser's own tools: https://www.w3.org/TR/server-timing/, in ms."""
        self.finish()
        parts = {
            "pool": self.spent("wait", "connect"),
            "sql": self.spent("begin", "sql"),
            "commit": self.spent("commit", "rollback"),
        }
        parts["app"] = self.now() - sum(parts.values())
        return ", ".join(f"{name};dur={time:.2f}" for name, time in parts.items())

    def __str__(self) -> str:
        """What the line in the log says of it."""
        statements = len(self.of("sql"))
        plural = "" if statements == 1 else "s"
        return f", {statements} statement{plural} {self.spent('begin', 'sql'):.1f} ms"

    def close(self) -> None:
        self.finish()
        self.left_open = any(span.end is None for span in self.of("transaction"))
        for span in self.spans:
            self.shut(span)
        self.total, self.done = self.now(), True
        self.notes, self.warnings = list(self.noted()), list(self.noticed())

    def noted(self) -> Iterator[str]:
        """What is worth knowing, and no mistake."""
        if self.first:
            yield "The first call of its route since the start: it also loads what others find loaded."
        stores = any("INTO idempotency_keys" in span.text for span in self.of("sql"))
        if self.keyed and self.status < 400 and self.of("commit") and not stores:
            yield "Replayed from its key: the stored answer of the first request, nothing done anew."

    def noticed(self) -> Iterator[str]:
        """What a newcomer should see, in words."""
        commits, rollbacks = self.of("commit"), self.of("rollback")
        if len(commits) > 1:
            yield (
                f"It has {len(commits)} COMMITs: when it fails between them, half of it is kept."
                " Commit once, at the end."
            )
        elif commits and rollbacks and self.status >= 400:
            yield "It failed after a COMMIT: a part of it is kept."
        selects = Counter((span.text, span.line) for span in self.of("sql") if is_select(span.text))
        for (statement, line), times in selects.items():
            if times >= SAME:
                yield (
                    f"The same statement ran {times} times (N+1), from {line}: load what it fetches"
                    f" together, with joinedload or selectinload."
                    f" {statement.split('WHERE')[0].strip()}"
                )
        sent = next((span.start for span in self.of("sent")), self.now())
        if any(span.end and span.end > sent for span in self.of("session")):
            yield (
                "The session outlived its response: what fails after that, nobody is told."
                ' Depend on it with scope="function".'
            )
        if self.left_open:
            yield "It left a transaction open: whoever commits it keeps what this request did."
        if commits and not self.of("transaction"):
            yield "It committed what it had not begun: the session is not its own."
        for wait in self.of("wait"):
            yield f"It waited {(wait.end or 0) - wait.start:.1f} ms. {why_wait(wait.text)}"
        if len(self.sessions) > 1:
            yield (
                f"It used {len(self.sessions)} sessions: each takes a connection and knows nothing"
                " of the others' changes. Pass the request's one on."
            )


def why_wait(pool: str) -> str:
    if pool == "writes" and database.writer.engine.dialect.name == "sqlite":
        return "SQLite has one writer at a time, and the others queue here."
    size = (database.reader if pool == "reads" else database.writer).size
    return (
        f"All {size} connections for {pool} were out: see what holds them so long, and POOL_SIZE."
    )


def is_select(statement: str) -> bool:
    return statement.lstrip().upper().startswith("SELECT")


def frames() -> Iterator[FrameType]:
    """The callers, from the inside out. SQLAlchemy runs its own part in a greenlet."""
    greenlet = getcurrent()
    frame: FrameType | None = sys._getframe(1)
    while True:
        while frame is not None:
            yield frame
            frame = frame.f_back
        if greenlet.parent is None:
            return
        greenlet, frame = greenlet.parent, greenlet.parent.gr_frame


def find_line() -> tuple[str, str]:
    """The line of a route, or of what it calls, that asks the database; else that of the machinery."""
    machinery: FrameType | None = None
    for frame in frames():
        file = frame.f_code.co_filename
        if file.startswith(f"{ROOT}/") and not file.startswith(f"{sys.prefix}/"):
            if not file.startswith(f"{MACHINERY}/"):
                return show_line(frame)
            if file not in PASSED_BY:
                machinery = machinery or frame
    return show_line(machinery) if machinery else ("", "")


def show_line(frame: FrameType) -> tuple[str, str]:
    file, number = frame.f_code.co_filename, frame.f_lineno
    return f"{Path(file).relative_to(ROOT)}:{number}", linecache.getline(file, number).strip()


def readable(parameters: Any) -> str:
    def short(value: Any) -> str:
        text = repr(value)
        return text if len(text) <= LONG else f"{text[:LONG]}…"

    if isinstance(parameters, list):  # of one statement for several rows
        return "; ".join(readable(one) for one in parameters)
    if isinstance(parameters, dict):
        return ", ".join(f"{name}={short(value)}" for name, value in parameters.items())
    return ", ".join(short(value) for value in parameters or ())
