"""Parses the FIELDS of `make resource`: `name:type[:argument…][:unique][?][=default]`.

For example `title:text:200`, `read:flag=false`, `status:choice:draft:sent=draft`, `owner:ref:users?`.
"""

import keyword
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError
from sqlmodel import SQLModel

from nutshell.fields import Update
from nutshell.paging import Filter
from nutshell.scaffold.kinds import KINDS, MAX_UNIQUE, ON_DELETE, UUIDS, Default, Kind
from nutshell.scaffold.tree import ScaffoldError, Table

HINT = f": an index holds text:{MAX_UNIQUE}:unique at most"
MAX_NAME = 30  # the names of constraints are made of several, and PostgreSQL cuts them to 63 bytes
# A schema with such a field could not use these names for its other fields.
PYTHON_NAMES = {"bool", "date", "datetime", "dict", "int", "list", "now", "str"}
# Each table of PostgreSQL or SQLite has columns of these names already.
SYSTEM_COLUMNS = {"cmax", "cmin", "ctid", "oid", "rowid", "tableoid", "xmax", "xmin"}


@dataclass(frozen=True)
class Field:
    name: str  # of the column
    kind: Kind
    nullable: bool
    unique: bool
    default: Default | None = None

    @property
    def required(self) -> bool:
        return not self.nullable and self.default is None

    @property
    def equality(self) -> bool:
        return self.kind.filtered or self.unique

    @property
    def sortable(self) -> bool:
        return self.equality or self.kind.ranged

    @property
    def null_filter(self) -> str | None:
        return f"{self.name}_is_null" if self.nullable and self.sortable else None

    @property
    def range_filters(self) -> tuple[str, ...]:
        stem = re.sub("_(at|on)$", "", self.name)
        return (f"{stem}_before", f"{stem}_after") if self.kind.ranged else ()

    @property
    def filters(self) -> list[str]:
        names = [self.name] if self.equality else []
        return [*names, *([self.null_filter] if self.null_filter else []), *self.range_filters]


def check_identifier(name: str) -> None:
    """Refuses what cannot be a variable, a column and a part of a path."""
    if not re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise ScaffoldError(f"{name!r} is no name: use a-z, 0-9 and _, beginning with a letter")
    if len(name) > MAX_NAME:
        raise ScaffoldError(f"{name} is too long: a name has {MAX_NAME} letters at most")
    if keyword.iskeyword(name):
        raise ScaffoldError(f"{name} is a keyword of Python")


def check_column(name: str) -> None:
    check_identifier(name)
    if name in ("id", "created_at"):
        raise ScaffoldError(f"every resource has {name} already")
    if name in Filter.model_fields:
        raise ScaffoldError(f"{name} is a parameter of every list")
    if hasattr(SQLModel, name) or hasattr(Update, name):
        raise ScaffoldError(f"{name} is an attribute of every schema")
    if name in PYTHON_NAMES:
        raise ScaffoldError(f"{name} is a name that the schemas use")
    if name in SYSTEM_COLUMNS:
        raise ScaffoldError(f"{name} is a column that databases have already")


def parse_field(word: str) -> Field:
    left, equals, given = word.partition("=")
    nullable = left.endswith("?")
    name, *rest = left.removesuffix("?").split(":")
    if not rest:
        raise ScaffoldError("it has no type, as in title:text:200")
    kind_name, *arguments = rest
    unique = arguments[-1:] == ["unique"]
    if unique:
        arguments.pop()
    if kind_name not in KINDS:
        known = ", ".join(example for _, example in KINDS.values())
        raise ScaffoldError(f"{kind_name!r} is no type; the types are {known}")
    check_identifier(name)
    kind = KINDS[kind_name][0](name, arguments)
    if kind.table is not None:
        check_identifier(kind.table)
        name = f"{name.removesuffix('_id')}_id"
        chosen = kind.on_delete or ("null" if nullable else "restrict")
        if chosen == "null" and not nullable:
            raise ScaffoldError("a reference that is set to null must be optional: end it with ?")
        kind = replace(kind, on_delete=ON_DELETE[chosen])
    check_column(name)
    if unique and kind.unique is None:
        raise ScaffoldError(
            f"{kind_name} cannot be unique" + (HINT if kind_name in ("text", "url") else "")
        )
    default = parse_default(kind, kind_name, given) if equals else None
    if unique and default is not None:
        raise ScaffoldError("a default of a unique field would serve one row")
    return Field(name, kind, nullable, unique, default)


def parse_default(kind: Kind, kind_name: str, given: str) -> Default:
    if kind.default is None:
        raise ScaffoldError(f"{kind_name} takes no default")
    try:
        return kind.default(given)
    except (KeyError, ValueError, ValidationError):
        raise ScaffoldError(f"{given!r} is no default for it") from None


def parse_fields(text: str, tables: Mapping[str, Table], own: Mapping[str, Table]) -> list[Field]:
    """Parses FIELDS, which may refer to any table; `own` is the new one. Raises ScaffoldError."""
    try:
        given = shlex.split(text)
    except ValueError as error:
        raise ScaffoldError(f"FIELDS: {error}") from None
    if not given:
        raise ScaffoldError("FIELDS is missing, as in FIELDS='title:text:200 owner:ref:users?'")
    fields: list[Field] = []
    taken = dict.fromkeys(Filter.model_fields, "every list")
    for word in given:
        try:
            field = parse_field(word)
            if field.kind.table is not None:
                field = replace(field, kind=refer(field, tables, own))
            if any(field.name == other.name for other in fields):
                raise ScaffoldError(f"{field.name} is given twice")
            for name in field.filters:
                if name in taken:
                    raise ScaffoldError(f"its filter {name} is also one of {taken[name]}")
                if hasattr(Filter, name):
                    raise ScaffoldError(f"{name} cannot be a filter: it is an attribute of Filter")
                taken[name] = field.name
        except ScaffoldError as error:
            raise ScaffoldError(f"{word}: {error}") from None
        fields.append(field)
    return fields


def refer(field: Field, tables: Mapping[str, Table], own: Mapping[str, Table]) -> Kind:
    """The kind of a reference, which depends on the ids of the table that it refers to."""
    name = str(field.kind.table)
    if name in own and field.required:
        raise ScaffoldError("a reference to its own table must be optional: end it with ?")
    if name not in {**tables, **own}:
        known = ", ".join(sorted(tables)) or "none yet"
        raise ScaffoldError(f"there is no table {name}; the tables are {known}")
    if {**tables, **own}[name].has_uuids:
        return replace(
            field.kind,
            type="Uuid",
            shown="UUID",
            query="Uuid",
            examples=UUIDS,
            column=None,
            nullable_column=None,
        )
    return field.kind
