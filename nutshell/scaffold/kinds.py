"""The types of fields that `make resource` knows: how the code for each is written."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Annotated, Any

from pydantic import TypeAdapter

from nutshell.columns import Exact, ExactNumeric
from nutshell.fields import Day, Email, Instant, Url, Uuid, Whole
from nutshell.scaffold.english import camel, words
from nutshell.scaffold.tree import ScaffoldError

# An index of PostgreSQL holds 2,700 bytes, and a cursor, which contains the value, 1,300 letters.
MAX_UNIQUE = 200
# Unicode has 20,000 from there on: enough for the tests, where the length allows no number.
ONE_LETTER = "chr(0x4E00 + number % 20_000)"
UUIDS = ("01990000-0000-7000-8000-000000000001", "01990000-0000-7000-8000-000000000002")


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
