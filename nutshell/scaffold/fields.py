"""Parses the FIELDS of `make resource`: `name:type[:argument…][:unique][?][=default]`.

For example `title:text:200`, `read:flag=false`, `status:choice:draft:sent=draft`, `owner:ref:users?`.
"""

import keyword
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from sqlmodel import SQLModel

from nutshell.columns import Exact, ExactNumeric
from nutshell.fields import Day, Email, Instant, Update, Url, Uuid, Whole
from nutshell.paging import Filter
from nutshell.scaffold.english import camel, words
from nutshell.scaffold.tree import ScaffoldError, Table

# An index of PostgreSQL holds 2,700 bytes, and a cursor, which contains the value, 1,300 letters.
MAX_UNIQUE = 200
HINT = f": an index holds text:{MAX_UNIQUE}:unique at most"
MAX_NAME = 30  # the names of constraints are made of several, and PostgreSQL cuts them to 63 bytes
# Unicode has 20,000 from there on: enough for the tests, where the length allows no number.
ONE_LETTER = "chr(0x4E00 + number % 20_000)"
UUIDS = ("01990000-0000-7000-8000-000000000001", "01990000-0000-7000-8000-000000000002")
# A schema with such a field could not use these names for its other fields.
PYTHON_NAMES = {"bool", "date", "datetime", "dict", "int", "list", "now", "str"}
# Each table of PostgreSQL or SQLite has columns of these names already.
SYSTEM_COLUMNS = {"cmax", "cmin", "ctid", "oid", "rowid", "tableoid", "xmax", "xmin"}


@dataclass(frozen=True)
class Kind:
    """How the code for one field writes a type: an entry of KINDS makes it from the field's arguments."""

    type: str  # in the Base and Update schemas
    shown: str  # in the Read schema
    query: str  # in the Filter schema
    examples: tuple[Any, Any]  # two different JSON values
    unique: str | None  # an expression in `number` for a row of its own; None: it cannot be unique
    alias: str | None = None  # what `type` is short for, if models.py defines it
    column: str | None = None  # its type, where SQLModel could not derive it
    nullable_column: str | None = None  # the same, of a column that may be null
    checked: bool = False  # the table has a constraint that allows only the words of `type`
    filtered: bool = False  # lists filter by equality, unless it is unique: then they always do
    ranged: bool = False  # lists filter by before and after
    default: Callable[[str], "Default"] | None = None  # parses a default, or raises ValueError
    table: str | None = None  # the table that a reference refers to
    on_delete: str | None = None


@dataclass(frozen=True)
class Default:
    value: Any  # as JSON; NOT_KNOWN if it differs from row to row
    code: str  # the option of Field


NOT_KNOWN = object()


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


def no_arguments(arguments: list[str], kind: str) -> None:
    if arguments:
        raise ScaffoldError(f"{kind} takes no argument, but got {':'.join(arguments)}")


def literal(value: Any) -> Default:
    return Default(value, f"default={value!r}")


def parse_with(type_: Any) -> Callable[[str], Default]:
    """Parses a default of a type whose JSON is a string."""
    adapter: TypeAdapter[Any] = TypeAdapter(type_)

    def parse(given: str) -> Default:
        value = adapter.validate_python(given)
        code = repr(value).removeprefix("datetime.").replace("datetime.timezone.utc", "UTC")
        return Default(adapter.dump_python(value, mode="json"), f"default={code}")

    return parse


def parse_whole(given: str) -> Default:
    return literal(int(TypeAdapter(Whole).validate_python(int(given))))


def parse_flag(given: str) -> Default:
    return literal({"true": True, "false": False}[given])


def parse_instant(given: str) -> Default:
    if given == "now":
        return Default(NOT_KNOWN, "default_factory=now")
    return parse_with(Instant)(given)


def parse_json(given: str) -> Default:
    return {
        "{}": Default({}, "default_factory=dict"),
        "[]": Default([], "default_factory=list"),
    }[given]


def text(name: str, arguments: list[str]) -> Kind:
    if len(arguments) != 1 or not re.fullmatch("[1-9][0-9]{0,6}", arguments[0], re.ASCII):
        raise ScaffoldError("text needs its greatest length, as in text:200")
    length = int(arguments[0])
    if length >= 16:
        unique = f'f"{words(name)[: length - 16]}{{number}}"'
    else:
        unique = 'f"{number:x}"' if length >= 6 else ONE_LETTER
    first, second = (
        next(one for one in ones if len(one) <= length)
        for ones in (
            (words(name).capitalize(), "ABC", "A"),
            (f"Another {words(name)}", f"{words(name).capitalize()} 2", "XYZ", "X"),
        )
    )

    def parse_text(given: str) -> Default:
        if not 1 <= len(given) <= length:
            raise ValueError
        return literal(given)

    return Kind(
        type=camel(name),
        alias=f"Annotated[Text, MinLen(1), MaxLen({length})]",
        shown="str",
        query=camel(name),
        examples=(first, second),
        unique=unique if length <= MAX_UNIQUE else None,
        nullable_column=f"String({length})",
        default=parse_text,
    )


def whole(name: str, arguments: list[str]) -> Kind:
    no_arguments(arguments, "whole")
    return Kind(
        type="Whole",
        shown="int",
        query="WholeQuery",
        examples=(1, 2),
        unique="number",
        column="BIGINT",
        nullable_column="BIGINT",
        default=parse_whole,
    )


def flag(name: str, arguments: list[str]) -> Kind:
    no_arguments(arguments, "flag")
    return Kind(
        type="Flag",
        shown="bool",
        query="FlagQuery",
        examples=(False, True),
        unique=None,
        filtered=True,
        default=parse_flag,
    )


def day(name: str, arguments: list[str]) -> Kind:
    no_arguments(arguments, "day")
    return Kind(
        type="Day",
        shown="date",
        query="Day",
        examples=("2030-01-31", "2030-02-28"),
        unique='f"{1000 + number % 9000}-01-31"',
        filtered=True,
        ranged=True,
        default=parse_with(Day),
    )


def instant(name: str, arguments: list[str]) -> Kind:
    no_arguments(arguments, "instant")
    return Kind(
        type="Instant",
        shown="datetime",
        query="Instant",
        examples=("2030-01-31T12:00:00Z", "2030-02-28T12:00:00Z"),
        unique='f"{1000 + number % 9000}-01-31T12:00:00Z"',
        ranged=True,
        default=parse_instant,
    )


def money(name: str, arguments: list[str]) -> Kind:
    no_arguments(arguments, "money")
    return Kind(
        type="Money",
        shown="Money",
        query="Money",
        examples=("19.90", "25.00"),
        unique=None,
        column="MONEY",
        nullable_column="MONEY",
        default=parse_with(Annotated[Decimal, Exact(15, 2)]),
    )


def price(name: str, arguments: list[str]) -> Kind:
    no_arguments(arguments, "price")
    default = parse_with(Annotated[Decimal, Exact(15, 2, signed=False)])
    return replace(money(name, []), type="Price", shown="Price", query="Price", default=default)


def decimal(name: str, arguments: list[str]) -> Kind:
    try:
        digits, places = (int(argument) for argument in arguments if argument.isascii())
        ExactNumeric(digits, places)
    except ValueError:
        raise ScaffoldError(
            "decimal needs its digits, at most 18, and how many of them are places, as in decimal:10:3"
        ) from None
    return Kind(
        type=camel(name),
        alias=f"Annotated[Decimal, Exact({digits}, {places})]",
        shown=camel(name),
        query=camel(name),
        examples=(f"{1.5:.{places}f}", f"{2.5:.{places}f}"),
        unique=None,
        column=f"ExactNumeric({digits}, {places})",
        nullable_column=f"ExactNumeric({digits}, {places})",
        default=parse_with(Annotated[Decimal, Exact(digits, places)]),
    )


def uuid(name: str, arguments: list[str]) -> Kind:
    no_arguments(arguments, "uuid")
    return Kind(
        type="Uuid",
        shown="UUID",
        query="Uuid",
        examples=UUIDS,
        unique='f"01990000-0000-7000-8000-{number:012x}"',
        default=parse_with(Uuid),
    )


def json(name: str, arguments: list[str]) -> Kind:
    no_arguments(arguments, "json")
    return Kind(
        type="Json",
        shown="Any",
        query="Json",
        examples=({"key": "value"}, ["a", "b"]),
        unique=None,
        column="JSON_TEXT",
        nullable_column="JSON_TEXT",
        default=parse_json,
    )


def email(name: str, arguments: list[str]) -> Kind:
    no_arguments(arguments, "email")
    return Kind(
        type="Email",
        shown="str",
        query="Email",
        examples=("ada@example.com", "grace@example.com"),
        unique=f'f"{name}{{number}}@example.com"',
        nullable_column="String(255)",
        default=parse_with(Email),
    )


def url(name: str, arguments: list[str]) -> Kind:
    no_arguments(arguments, "url")
    return Kind(
        type="Url",
        shown="str",
        query="Url",
        examples=("https://example.com/engine", "https://example.com/card"),
        unique=None,
        nullable_column="String(2000)",
        default=parse_with(Url),
    )


def choice(name: str, arguments: list[str]) -> Kind:
    if len(arguments) < 2 or len(set(arguments)) < len(arguments):
        raise ScaffoldError("choice needs two different words or more, as in choice:draft:sent")
    for word in arguments:
        if not re.fullmatch("[A-Za-z0-9_-]+", word):
            raise ScaffoldError(f"choice: {word!r} is no word of letters, digits, - and _")

    def parse_choice(given: str) -> Default:
        return literal(arguments[arguments.index(given)])

    return Kind(
        type=camel(name),
        alias=f"Literal[{', '.join(map(repr, arguments))}]",
        shown=camel(name),
        query=camel(name),
        examples=(arguments[0], arguments[1]),
        unique=None,
        column="String",
        nullable_column="String",
        checked=True,
        filtered=True,
        default=parse_choice,
    )


ON_DELETE = {"cascade": "CASCADE", "null": "SET NULL", "restrict": None}


def reference(name: str, arguments: list[str]) -> Kind:
    table, *rest = arguments or [""]
    if not table or len(rest) > 1 or not set(rest) <= ON_DELETE.keys():
        raise ScaffoldError(
            "ref needs a table, as in ref:users, and then may say cascade, null, restrict"
        )
    return Kind(
        type="Reference",
        shown="int",
        query="Id",
        examples=(1, 2),
        unique="",  # the row that it refers to is a new one
        column="BIGINT",
        nullable_column="BIGINT",
        filtered=True,
        table=table,
        on_delete=rest[0] if rest else None,
    )


# Each type by name, with an example. A new type of nutshell/fields.py needs a function and an entry here.
KINDS: dict[str, tuple[Callable[[str, list[str]], Kind], str]] = {
    "text": (text, "text:200"),
    "whole": (whole, "whole"),
    "flag": (flag, "flag"),
    "day": (day, "day"),
    "instant": (instant, "instant"),
    "money": (money, "money"),
    "price": (price, "price"),
    "decimal": (decimal, "decimal:10:3"),
    "email": (email, "email"),
    "url": (url, "url"),
    "uuid": (uuid, "uuid"),
    "json": (json, "json"),
    "choice": (choice, "choice:draft:sent"),
    "ref": (reference, "ref:users"),
}


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
