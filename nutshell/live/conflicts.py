"""Finds requests that got in each other's way without an error: lost updates and torn reads.

It knows only what this process does, so it misses the changes of others.
"""

import re
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event, inspect
from sqlalchemy.orm import InstanceState, Mapper, QueryContext, Session

from nutshell.live import feed
from nutshell.live.observer import current
from nutshell.live.trace import Span, Trace, is_select

KEPT = 1000  # rows and commits that are remembered

WRITTEN = re.compile(r"\b(?:INSERT INTO|UPDATE|DELETE FROM) (\w+)", re.IGNORECASE)

Row = tuple[str, tuple[Any, ...]]  # its table and primary key


@dataclass
class Change:
    """What a committed transaction changed in a row."""

    trace: Trace
    at: float  # ms, on the clock of all requests
    columns: set[str]


@dataclass
class Commit:
    trace: Trace
    at: float
    tables: set[str]


changes: OrderedDict[Row, Change] = OrderedDict()
commits: deque[Commit] = deque(maxlen=KEPT)


class WatchedTrace(Trace):
    """A Trace that remembers the rows that its request has read and written."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.read: dict[Row, float] = {}  # when it read each row last
        self.written: dict[Row, set[str]] = {}  # columns that are not committed yet
        self.settled = 0  # the spans before this belong to transactions that have ended

    def end_transaction(self, *, kept: bool, step: Span) -> None:
        spans, self.settled = self.spans[self.settled :], len(self.spans)
        if kept:
            # A waiting request may go on before this one hears that its commit has succeeded, so the
            # beginning of the commit counts for rows.
            self.find_lost_updates(self.began + step.start)
            tables = {table for span in spans for table in WRITTEN.findall(span.text)}
            if tables:
                commits.append(Commit(self, self.began + (step.end or step.start), tables))
        self.written = {}

    def find_lost_updates(self, at: float) -> None:
        for row, columns in self.written.items():
            before = changes.get(row)
            if before and before.trace is not self and self.read.get(row, at) < before.at:
                self.name_lost_update(before.trace, row, columns & before.columns)
            changes[row] = Change(self, at, columns)
            changes.move_to_end(row)
            self.read[row] = self.began + self.now()
        while len(changes) > KEPT:
            changes.popitem(last=False)

    def name_lost_update(self, earlier: Trace, row: Row, columns: set[str]) -> None:
        if not columns:
            return
        lost, place = ", ".join(sorted(columns)), name_row(row)
        self.conflicts.append(
            f"Lost update: it read {place}, then #{earlier.number} changed {lost}, and then it wrote over"
            " that. Read with with_for_update=True, or use If-Match."
        )
        words = f"Lost update: #{self.number} wrote over {lost} of {place} without having seen this change."
        if earlier.done:
            earlier.warnings.append(words)
            feed.publish(earlier)
        else:
            earlier.conflicts.append(words)

    def close(self) -> None:
        self.finish()
        self.find_torn_read()
        super().close()

    def find_torn_read(self) -> None:
        """Finds a change between two statements that needed a snapshot and had none."""
        if not self.torn:
            return
        around = self.of("transaction")
        reads = [
            span
            for span in self.of("sql")
            if is_select(span.text) and not any(outer.start <= span.start for outer in around)
        ]
        if not reads:
            return
        first, last = self.began + (reads[0].end or 0), self.began + reads[-1].start
        read = {word for span in reads for word in re.findall(r"\w+", span.text)}
        for commit in commits:
            if commit.trace is not self and first <= commit.at <= last and commit.tables & read:
                number, tables = commit.trace.number, sorted(commit.tables & read)
                moment = commit.at - self.began
                self.spans.append(Span("torn", moment, moment, ", ".join(tables), by=[number]))
                # Whether the answer is another one depends on which rows were changed.
                self.torn = ""  # these words say more
                self.conflicts.append(
                    f"Possibly a torn read: its statements saw two moments, and #{number} changed"
                    f" {', '.join(tables)} in between. A SnapshotDep lets all of them see the same one."
                )


def name_row(row: Row) -> str:
    table, key = row
    return f"row {', '.join(map(str, key))} of {table}"


def identify(state: InstanceState[Any]) -> Row | None:
    if state.key is None:
        return None
    return str(state.mapper.local_table), tuple(state.key[1])


def note_read(target: object, context: QueryContext, *_: Any) -> None:
    trace = current.get()
    if isinstance(trace, WatchedTrace) and (row := identify(inspect(target))):
        trace.read[row] = trace.began + trace.now()


def note_changes(session: Session, _: object) -> None:
    trace = current.get()
    if not isinstance(trace, WatchedTrace):
        return
    for instance in session.dirty:
        state = inspect(instance)
        columns = {
            attribute.key
            for attribute in state.mapper.column_attrs
            if state.attrs[attribute.key].history.has_changes()
        }
        if columns and (row := identify(state)):
            trace.written.setdefault(row, set()).update(columns)


LISTENERS: list[tuple[Any, str, Callable[..., None]]] = [
    (Mapper, "load", note_read),
    (Mapper, "refresh", note_read),
    (Session, "after_flush", note_changes),
]


def watch_conflicts() -> None:
    for target, name, listener in LISTENERS:
        event.listen(target, name, listener)


def stop() -> None:
    for target, name, listener in LISTENERS:
        event.remove(target, name, listener)
