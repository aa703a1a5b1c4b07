"""Detects misuse of sessions: forgotten commits, torn reads, and writes in a GET."""

import logging
import re
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from sqlalchemy import Connection, Engine, TextClause, event
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.exceptions import HTTPException

logger = logging.getLogger(__name__)

# Matches statements that change rows, including inside a CTE, but not `FOR UPDATE`.
CHANGE = re.compile(r"(?:^|[();])\s*(?:INSERT|UPDATE|DELETE|MERGE|REPLACE\s+INTO)\b", re.IGNORECASE)

WRITES = "A route of a safe method (GET, HEAD) must not write."
TORN = "%s sent %d statements, each of which saw a different moment: a SnapshotDep gives them one."


@dataclass
class Record:
    """What a session has done so far. It is stored in the session's `info`."""

    safe: bool  # for GET and HEAD, in autocommit
    snapshot: bool = False
    statements: int = 0
    uncommitted: bool = False  # the current transaction has changed something
    before_savepoint: bool = False  # the value at the last savepoint
    committed: bool = False


class ForgottenCommitError(RuntimeError):
    """A route, or a background session, has made changes and not committed them."""


class CheckSession:
    """A context manager that checks, when its block ends, how the session was used.

    Raises ForgottenCommitError. Logs a warning for several statements without a snapshot, and an error
    for a failure after a commit.
    """

    def __init__(self, session: AsyncSession, request: Request | None = None) -> None:
        self.session = session
        self.request = request

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        record: Record = self.session.info["record"]
        if error is not None:
            if record.committed and not isinstance(error, HTTPException):
                logger.error("%s failed after its commit: its changes are stored.", self)
        elif record.safe:
            if record.statements > 1 and not record.snapshot:
                logger.warning(TORN, self, record.statements)
        elif has_changes(self.session) or (record.uncommitted and self.session.in_transaction()):
            raise ForgottenCommitError(
                f"{self} changed something and did not commit it: call session.commit() at the end."
            )

    def __str__(self) -> str:
        if self.request is None:
            return "A background session"
        return f"{self.request.method} {self.request.scope['route'].path}"


def has_changes(session: AsyncSession) -> bool:
    """Whether the session has changes that are not flushed."""
    changed = any(session.is_modified(row) for row in session.dirty)
    return bool(changed or session.new or session.deleted)


@event.listens_for(Session, "before_flush")
def refuse_write(session: Session, *_: Any) -> None:
    # In autocommit, a write would persist even if the route failed later.
    if "record" in session.info and session.info["record"].safe:
        raise RuntimeError(WRITES)


@event.listens_for(Session, "do_orm_execute")
def follow_statement(state: ORMExecuteState) -> None:
    if record := state.session.info.get("record"):
        record.statements += 1
        if record.safe and changes(state):
            raise RuntimeError(WRITES)


def changes(state: ORMExecuteState) -> bool:
    """Whether the statement changes rows, as far as can be seen before it is compiled."""
    written = state.statement
    text = isinstance(written, TextClause) and CHANGE.search(written.text)
    return bool(text or state.is_insert or state.is_update or state.is_delete)


@event.listens_for(Session, "after_begin")
def follow_transaction(
    session: Session, transaction: SessionTransaction, connection: Connection
) -> None:
    record = session.info.get("record")
    if record is None or record.safe:
        return
    if transaction.nested:
        record.before_savepoint = record.uncommitted
    else:
        record.uncommitted = False
        connection.info["record"] = record


@event.listens_for(Session, "after_soft_rollback")
def follow_rollback(session: Session, transaction: SessionTransaction) -> None:
    # A rollback to a savepoint undoes only what was written since.
    if (record := session.info.get("record")) and transaction.nested:
        record.uncommitted = record.before_savepoint


def follow_change(connection: Connection, cursor: object, statement: str, *_: object) -> None:
    """Sees every statement sent to the writer, including those sent by `session.connection()`."""
    record = connection.info.get("record")
    if record is not None and CHANGE.search(statement):
        record.uncommitted = True


@event.listens_for(Session, "after_commit")
def follow_commit(session: Session) -> None:
    record = session.info.get("record")
    # On a connection that is already in a transaction, this has only released a savepoint.
    if record is not None and not session.in_nested_transaction():
        record.committed = isinstance(session.bind, Engine)
