"""Fields whose columns need a type or constraint of their own: exact decimals, JSON, a choice of words."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation
from math import isfinite
from typing import Annotated, Any, get_args

from annotated_types import GroupedMetadata
from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema
from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Dialect,
    Integer,
    Numeric,
    TypeDecorator,
    column,
)
from sqlalchemy.sql import operators
from sqlalchemy.types import TypeEngine

from nutshell.fields import MAX_INT


class ExactNumeric(TypeDecorator[Decimal]):
    """NUMERIC on PostgreSQL. SQLite has no decimals: there it is the integer of the smallest units.

    SQL can compare, sort and add such values, and multiply them by integers. Calculate anything else in
    Python: on SQLite the database would ignore the decimal point.
    """

    impl = Numeric
    cache_ok = True

    def __init__(self, precision: int, scale: int) -> None:
        if not 0 < scale < precision <= 18:
            raise ValueError("SQLite stores up to 18 digits, of which one stands before the point")
        super().__init__(precision, scale)
        self.precision = precision
        self.scale = scale

    def normalize(self, value: Decimal) -> Decimal:
        """Returns the value with all its places. Raises ArithmeticError if it has more, or more digits."""
        exact = Context(self.precision, traps=[Inexact, InvalidOperation])
        return value.quantize(Decimal(1).scaleb(-self.scale), context=exact) + 0  # -0 becomes 0

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(BigInteger())
        return dialect.type_descriptor(Numeric(self.precision, self.scale))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if value is None:
            return None
        exact = self.normalize(Decimal(value))
        return int(exact.scaleb(self.scale)) if dialect.name == "sqlite" else exact

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        if value is not None and dialect.name == "sqlite":
            return Decimal(value).scaleb(-self.scale)
        return value  # type: ignore[no-any-return]

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        return Integer() if op is operators.mul else self


@dataclass(frozen=True)
class Exact(GroupedMetadata):
    """Makes a field exact: `Weight = Annotated[Decimal, Exact(10, 3)]`, with sa_type=ExactNumeric(10, 3).

    In JSON it is a string with all its places, because most clients read numbers as binary fractions. Use
    it in Create, Update, Filter and Read schemas alike.
    """

    digits: int
    places: int
    signed: bool = True  # False: it cannot be negative

    def __iter__(self) -> Iterator[object]:
        pattern = rf"^{'-?' if self.signed else ''}[0-9]{{1,{self.digits - self.places}}}(\.[0-9]{{1,{self.places}}})?$"
        normalize = ExactNumeric(self.digits, self.places).normalize
        example = f"{1.5:.{self.places}f}"

        def read(value: object) -> Decimal:
            text = isinstance(value, str) and re.fullmatch(pattern, value)
            if isinstance(value, Decimal) or text:
                return normalize(Decimal(value))  # type: ignore[arg-type]
            sign = "" if self.signed else ", not negative"
            raise ValueError(f'give a string of digits{sign}, as in "{example}"')

        yield BeforeValidator(read)
        # str() would write small numbers with an exponent.
        yield PlainSerializer("{:f}".format, when_used="json")
        yield WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


# An amount of money.
Money = Annotated[Decimal, Exact(15, 2)]
MONEY = ExactNumeric(15, 2)
# The same, not negative.
Price = Annotated[Decimal, Exact(15, 2, signed=False)]

MAX_DEPTH = 32  # Some clients refuse to read 64.


def require_json(value: object, depth: int = 0) -> object:
    """Rejects what the databases cannot store, or what clients would change or refuse to read."""
    if isinstance(value, dict | list):
        if depth == MAX_DEPTH:
            raise ValueError(f"this is nested more than {MAX_DEPTH} levels deep")
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            require_json(inner, depth + 1)
    elif isinstance(value, str):
        if re.search("[\x00\ud800-\udfff]", value):
            raise ValueError("a text contains U+0000 or half a surrogate pair")
    elif isinstance(value, int) and abs(value) > MAX_INT:
        raise ValueError("an integer has more than 53 bits")
    elif isinstance(value, float) and not isfinite(value):
        raise ValueError("a number is not finite")
    if depth == 0 and not isinstance(value, dict | list):
        raise ValueError("give an object or an array")
    return value


# A JSON object or array: SQLite would change 1.0, alone in a JSON column, to 1. Its column needs
# sa_type=JSON_TEXT.
Json = Annotated[Any, AfterValidator(require_json), WithJsonSchema({"type": ["object", "array"]})]
# PostgreSQL's JSONB would change the order of keys, and numbers.
JSON_TEXT = JSON(none_as_null=True)


def allow_only(name: str, words: Any) -> CheckConstraint:
    """The constraint of a column that contains one of the words of a `Literal`.

    Unlike an enum, which is a type in PostgreSQL, a constraint is created and dropped with its table.
    """
    return CheckConstraint(column(name).in_(get_args(words)), name)
