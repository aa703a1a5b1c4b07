"""What the live view knows about one request: its spans, and what they mean in words."""

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
# Files between the program and the database driver.
PASSED_BY = [str(MACHINERY / name) for name in ("live/trace.py", "live/observer.py", "engines.py")]
LONG = 300  # letters of one parameter
SAME = 3  # times that the same SELECT may run before it looks like an N+1
CLOCK = (time() - perf_counter()) * 1000  # ms from the zero of perf_counter to that of Unix time

numbers = count(1)


@dataclass
class Span:
    """A stretch of a request's life, in ms from its start. The kinds, from the outside in:

    wait (for a slot in the pool) and session (from the slot to the connection's return); transaction;
    connect, begin, sql, commit and rollback; lock (within any of these). Two are moments: sent, when the
    response was out, and torn, when another request changed what this one was reading.
    """

    kind: str
    start: float
    end: float | None = None  # None while it lasts
    text: str = ""  # the statement, the pool, or what is locked
    parameters: str = ""
    rows: int | None = None
    failed: bool = False
    error: str = ""
    opened: bool = False  # a new connection, which the pool did not have
    kept: bool = False  # a session whose connection did not go back to the pool
    by: list[int] = field(default_factory=list)  # the requests that it waits for, or belongs to
    line: str = ""  # of the program
    code: str = ""


@dataclass
class Trace:
    """One request: what was asked, and the spans of its life."""

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
        self.step: Span | None = None  # the current call to the database
        self.backend: int | None = None  # PostgreSQL's process for the current step
        self.lock: Span | None = None  # that the current step waits for
        self.transaction: Span | None = None
        self.strays: dict[str, Span] = {}  # sessions without a slot, by pool
        self.sessions: set[int] = set()
        self.left_open = False
        self.torn = ""  # the warning of guards.py about its statements
        self.conflicts: list[str] = []

    def now(self) -> float:
        return perf_counter() * 1000 - self.began

    def open(self, kind: str, **more: Any) -> Span:
        span = Span(kind, self.now(), **more)
        self.spans.append(span)
        return span

    def shut(self, span: Span | None) -> None:
        if span is not None and span.end is None:
            span.end = self.now()

    def begin(self, kind: str, *, snapshot: bool = False, **more: Any) -> Span:
        """Begins a call to the database, which ends the one before."""
        self.finish()
        if kind == "begin":
            self.transaction = self.open("transaction", text="snapshot" if snapshot else "")
        line, code = find_line()
        self.step = self.open(kind, line=line, code=code, **more)
        return self.step

    def finish(self) -> None:
        if (step := self.step) is None:
            return
        self.shut(self.lock)
        self.shut(step)
        if step.kind in ("commit", "rollback"):
            if self.transaction is not None:
                self.transaction.end = step.end
            self.end_transaction(kept=step.kind == "commit" and not step.failed, step=step)
        self.step = self.lock = None

    def end_transaction(self, *, kept: bool, step: Span) -> None:
        """conflicts.py replaces this."""

    def of(self, *kinds: str) -> list[Span]:
        return [span for span in self.spans if span.kind in kinds]

    def spent(self, *kinds: str) -> float:
        return sum((span.end or self.now()) - span.start for span in self.of(*kinds))

    def holds(self, pool: str) -> bool:
        return any(span.text == pool and span.end is None for span in self.of("session"))

    @property
    def sent(self) -> float | None:
        return next((span.start for span in self.of("sent")), None)

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
        """What the access log adds."""
        statements = len(self.of("sql"))
        plural = "" if statements == 1 else "s"
        return f", {statements} statement{plural} {self.spent('begin', 'sql'):.1f} ms"

    def close(self) -> None:
        self.finish()
        self.left_open = any(span.end is None and not span.by for span in self.of("transaction"))
        for stray in self.strays.values():
            stray.kept = stray.end is None
        for span in self.spans:
            self.shut(span)
        self.total, self.done = self.now(), True
        self.notes, self.warnings = list(self.noted()), [*self.noticed(), *self.conflicts]

    def noted(self) -> Iterator[str]:
        """What is worth knowing, and is no mistake."""
        if self.first:
            yield (
                "This is the first call of its route since the service started, so it also loads"
                " what later calls find in memory."
            )
        stores = any("INTO idempotency_keys" in span.text for span in self.of("sql"))
        if self.keyed and self.status < 400 and self.of("commit") and not stores:
            yield "Replayed from its key: this is the stored response of the first request."
        for lock in self.of("lock"):
            waited = show_time((lock.end or 0) - lock.start)
            yield f"It waited {waited} for the lock on {lock.text}, held by {name_all(lock.by)}."
        sent = self.sent
        if sent is not None and any(span.start > sent for span in self.of("session")):
            yield "It used a session of its own after the response was out."

    def noticed(self) -> Iterator[str]:
        """What a newcomer should see, in words."""
        if self.torn:
            yield self.torn
        commits, rollbacks = self.of("commit"), self.of("rollback")
        borrowed = [number for span in self.of("transaction") for number in span.by]
        sent = self.now() if self.sent is None else self.sent
        before = [commit for commit in commits if commit.start < sent]
        if len(before) > 1:
            yield (
                f"It has {len(before)} COMMITs: if it fails between them, half of its changes are"
                " kept. Commit once, at the end."
            )
        elif commits and rollbacks and self.status >= 400:
            yield "It failed after a COMMIT: a part of its changes is kept."
        selects = Counter((span.text, span.line) for span in self.of("sql") if is_select(span.text))
        for (statement, line), times in selects.items():
            if times >= SAME:
                yield (
                    f"The same statement ran {times} times (N+1), from {line}: load the rows"
                    f" together, with joinedload or selectinload."
                    f" {statement.split('WHERE')[0].strip()}"
                )
        if any(span.start < sent < (span.end or 0) for span in self.of("session")):
            if self.strays:
                yield "Its session is still open, and keeps its connection."
            else:
                yield (
                    "The session outlived its response: the caller does not learn of a failure after"
                    ' that. Depend on it with scope="function".'
                )
        if self.left_open:
            yield (
                "It left a transaction open: whoever commits that keeps what this request has done."
            )
        if commits and borrowed:
            yield (
                f"It committed what it had not begun, the transaction of {name_all(borrowed)}:"
                " the session is not its own."
            )
        for wait in self.of("wait"):
            waited = show_time((wait.end or 0) - wait.start)
            yield (
                f"It waited {waited} for a slot. {why_wait(wait.text)} When the wait began,"
                f" {name_all(wait.by)} held {'it' if len(wait.by) == 1 else 'them'}."
            )
        if any("Session has been permanently closed" in line for line in self.log):
            yield (
                "It used the request's session after that was closed: work after the response needs one"
                " of its own, background_session()."
            )
        if len(self.sessions) > 1:
            yield (
                f"It used {len(self.sessions)} sessions: each takes a connection, and none sees the"
                " others' uncommitted changes. Pass the request's own session on."
            )


def name_all(requests: list[int]) -> str:
    *most, last = [f"#{number}" for number in requests] or ["somebody outside this process"]
    return f"{', '.join(most)} and {last}" if most else last


def show_time(ms: float) -> str:
    """As the page shows it."""
    if ms >= 1000:
        return f"{ms / 1000:.2f} s"
    return f"{ms:.2f} ms" if ms < 10 else f"{ms:.1f} ms"


def why_wait(pool: str) -> str:
    if pool == "writes" and database.writer.engine.dialect.name == "sqlite":
        return "SQLite has one writer at a time, and the others queue here."
    size = (database.reader if pool == "reads" else database.writer).size
    return (
        f"All {size} slots for {pool} were taken: find out what holds them so long (see POOL_SIZE)."
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
    """Finds the line of the program that calls the database, or else that of the machinery."""
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
