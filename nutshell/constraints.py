"""Finds the constraint that an IntegrityError violates, and the places in the input that violate it."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import Any
from uuid import UUID

from fastapi import Request
from sqlalchemy import Column, Index, Table, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlmodel import SQLModel

from nutshell import database

Place = tuple[str | int, ...]
Fields = dict[str, tuple[Place, Any]]  # the place and the value of each field of an object

# By SQLSTATE. 23001 is ON DELETE RESTRICT.
KINDS = {
    "23001": "foreign_key",
    "23503": "foreign_key",
    "23505": "unique",
    "23514": "check",
    "23P01": "exclusion",
}
MANY = 1000  # objects looked up


@dataclass
class Violation:
    kind: str
    # The columns of the constraint. SQLite does not name foreign keys, so there it is each of the table's.
    keys: list[list[Column[Any]]]
    rule: str = ""  # the name of a CHECK constraint
    values: list[str] | None = None  # of the columns, if the database tells


def find_violation(exc: IntegrityError) -> Violation | None:
    """Returns None for constraints that the schemas should have enforced, such as NOT NULL."""
    error: Any = exc.orig
    if not hasattr(error, "sqlstate"):
        return read_sqlite(str(error), exc.statement or "")
    # Citus names the constraint only in the message, with a shard number.
    message = str(error.diag.message_primary)
    name = error.diag.constraint_name or re.sub(r'.*constraint "(\w+?)(_\d+)?".*', r"\1", message)
    kind = KINDS.get(error.sqlstate)
    return read_constraint(kind, name, str(error.diag.message_detail)) if kind else None


def read_sqlite(message: str, statement: str) -> Violation | None:
    tables = SQLModel.metadata.tables
    kind, _, subject = message.partition(" constraint failed")
    subject = subject.removeprefix(": ")
    if kind == "CHECK" or subject.startswith("index "):
        return read_constraint(kind.lower(), subject.removeprefix("index ").strip("'"))
    if kind == "UNIQUE":
        columns = [
            tables[table].columns[name]
            for table, name in re.findall(r"(\w+)\.(\w+)", subject)
            if table in tables and name in tables[table].columns
        ]
        return Violation("unique", [columns])
    if kind == "FOREIGN KEY":
        written = re.match(r'(?:INSERT INTO|UPDATE) "?(\w+)', statement)
        known = written and written[1] in tables
        keys = tables[written[1]].foreign_key_constraints if written and known else []
        return Violation("foreign_key", [list(key.columns) for key in keys])
    return None


def read_constraint(kind: str, name: str, detail: str = "") -> Violation:
    for table in SQLModel.metadata.tables.values():
        constraints: list[Any] = [*table.constraints, *table.indexes]
        for constraint in constraints:
            if constraint.name == name:
                columns = columns_of(constraint, table)
                shown = re.search(r"\)=\((.*)\)", detail)  # Key (a, b)=(1, 2) already exists.
                values = shown[1].split(", ", len(columns) - 1) if shown else []
                known = len(values) == len(columns) and kind != "check"
                rule = name.removeprefix(f"ck_{table.name}_")
                return Violation(kind, [columns], rule, values if known else None)
    return Violation(kind, [], name)  # of another application's table


def columns_of(constraint: Any, table: Table) -> list[Column[Any]]:
    if found := list(constraint.columns):
        return found
    # A CHECK, or the index of an expression, may be plain SQL.
    parts = constraint.expressions if isinstance(constraint, Index) else [constraint.sqltext]
    words = re.findall(r"\w+", " ".join(map(str, parts)))
    return [column for column in table.columns if column.name in words]


async def find_places(request: Request, violation: Violation) -> dict[Place, list[str]]:
    """Returns the places of the constraint's columns that the caller has sent, each with its column.

    If it is not known which objects of the body are meant, it is the place that contains them all.
    """
    try:
        body = await request.json()
    except ValueError:  # a route without a body
        body = None
    objects = list(objects_of(body, ("body",), request.url.path.rpartition("/")[2]))
    around: Fields = {name: (("query", name), v) for name, v in request.query_params.items()}
    around |= {name: (("path", name), value) for name, value in request.path_params.items()}
    found: dict[Place, list[str]] = {}
    for columns in violation.keys:
        names = [column.name for column in columns]
        outside = {name: around[name] for name in names if name in around}
        inside = [{n: o[n] for n in names if n in o and o[n][1] is not None} for o in objects]
        sent = [outside | fields for fields in inside if fields] or [outside]
        meant, certain = await find_meant(violation, columns, [fields for fields in sent if fields])
        places = {name: [fields[name][0] for fields in meant if name in fields] for name in names}
        for name, several in places.items():
            if several and not certain:
                same = takewhile(lambda parts: len(set(parts)) == 1, zip(*several, strict=False))
                several = [tuple(parts[0] for parts in same)]
            for place in several:
                found.setdefault(place, []).append(name)
    return found


def objects_of(part: Any, place: Place, name: str) -> Iterator[Fields]:
    """The objects in a body. An entry of a list `tags` or `tag_ids` is one with a `tag_id`."""
    if isinstance(part, dict):
        yield {key: ((*place, key), value) for key, value in part.items()}
        for key, value in part.items():
            yield from objects_of(value, (*place, key), key)
    elif isinstance(part, list):
        singular = name.removesuffix("s").removesuffix("_id")
        for number, entry in enumerate(part):
            if isinstance(entry, dict | list):
                yield from objects_of(entry, (*place, number), name)
            else:
                yield {f"{singular}_id": ((*place, number), entry)}


async def find_meant(
    violation: Violation, columns: list[Column[Any]], sent: list[Fields]
) -> tuple[list[Fields], bool]:
    """Returns the fields of the objects that violate the constraint, and whether that is certain."""
    if violation.values is not None:
        known = dict(zip((column.name for column in columns), violation.values, strict=True))
        same = [f for f in sent if all(written(v) == written(known[n]) for n, (_, v) in f.items())]
        if same or violation.kind == "foreign_key":  # an id is written the same way everywhere
            return same, True
    elif violation.kind == "foreign_key":
        return await find_absent(columns[0], sent) if len(columns) == 1 else [], True
    elif violation.kind == "unique":
        times = Counter(str([v for _, v in fields.values()]) for fields in sent)
        twice = [f for f in sent if times[str([v for _, v in f.values()])] > 1]
        if twice:
            return twice, True
    most = max(map(len, sent), default=0)
    closest = [fields for fields in sent if len(fields) == most]
    return closest, len(closest) < 2


def written(value: object) -> str:
    return str(value).casefold()


async def find_absent(column: Column[Any], sent: list[Fields]) -> list[Fields]:
    """Looks up the references on SQLite, which does not tell which of them it refused."""
    key = next(iter(column.foreign_keys))
    kind = {int: int, UUID: UUID}.get(key.column.type.python_type, str)
    values = {}
    for fields in sent[:MANY]:
        with suppress(TypeError, ValueError):
            values[kind(fields[column.name][1])] = fields
    query = select(key.column).where(key.column.in_(values))
    try:
        async with database.reader.slot(), database.reader.engine.connect() as connection:
            present = set(await connection.scalars(query))
    except SQLAlchemyError:
        return []  # every reader is busy: the caller learns of the conflict without its place
    return [fields for value, fields in values.items() if value not in present]
