"""Types of fields and columns that more than one service wants."""

import re
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from annotated_types import Interval, MaxLen
from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    EmailStr,
    SkipValidation,
    Strict,
    StringConstraints,
    TypeAdapter,
    WithJsonSchema,
    create_model,
)
from pydantic_core import to_jsonable_python
from sqlalchemy import BigInteger, Integer
from sqlmodel import Field, SQLModel

# A migration can alter only what has a name, so every constraint gets one.
SQLModel.metadata.naming_convention = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}

# SQLite numbers rows by itself only in a column declared INTEGER, which has 64 bits there anyway.
# AUTOINCREMENT keeps it from giving the id of a deleted row to a new one.
BIGINT = BigInteger().with_variant(Integer, "sqlite")
NEVER_REUSE_IDS = {"sqlite_autoincrement": True}

# For Create, Update and Filter schemas: a misspelt field is an error and not a silence.
REFUSE_UNKNOWN: Any = ConfigDict(extra="forbid")


def example(**fields: Any) -> Any:
    """The `model_config` of an Update schema: the body that /docs proposes. Keep it small.

    Without it /docs proposes to overwrite every field.
    """
    return ConfigDict(json_schema_extra={"examples": [fields]})


def left_out(**options: Any) -> Any:
    """The default of a field that may be left out, but may not be null. It is then None."""
    return Field(default_factory=lambda: None, **options)


LEFT_OUT = left_out()


def now() -> datetime:
    return datetime.now(UTC)


def refuse_display_name(value: object) -> object:
    """Refuses `Ada <ada@example.com>`. Pydantic would keep the address and drop the name."""
    if isinstance(value, str) and "<" in value:
        raise ValueError("give the address alone, without a name")
    return value


def require_number(value: object) -> object:
    """Refuses "1" and true, which pydantic takes for numbers. In JSON, 1.0 is a whole number."""
    if isinstance(value, str | bool):
        raise ValueError("give a number")  # noqa: TRY004 (pydantic takes no TypeError)
    return value


def require_digits(value: object) -> object:
    """Refuses " 4", "+4", "4.0" and "1_000" in a path or query, which pydantic takes for numbers."""
    if isinstance(value, str) and not re.fullmatch("-?[0-9]+", value):
        raise ValueError("give a whole number, in digits")
    return value


def require_date_and_time(value: object) -> object:
    """Refuses numbers, which pydantic takes for seconds since 1970."""
    if isinstance(value, datetime) or re.match(r"\d{4}-\d\d-\d\d[Tt ]", str(value)):
        return value
    raise ValueError("give a date and time with an offset, as in 2030-01-31T12:00:00Z (RFC 3339)")


def require_date(value: object) -> object:
    """Refuses numbers and times, which pydantic takes for dates too."""
    if isinstance(value, datetime) or not re.fullmatch(r"\d{4}-\d\d-\d\d", str(value)):
        raise ValueError("give a date, as in 2030-01-31 (RFC 3339)")
    return value


def to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("the year in UTC must be from 1 to 9999") from None


# Beyond 2**53 neither JavaScript nor the numbers of an OpenAPI document are exact.
MAX_INT = 2**53 - 1

# For whole numbers in a path or a query.
DIGITS = BeforeValidator(require_digits)
# The id of a row there.
Id = Annotated[int, Interval(ge=1, le=MAX_INT), DIGITS]
# The id of another row, in a body.
Reference = Annotated[Id, BeforeValidator(require_number)]
# PostgreSQL cannot store NUL.
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
# A whole number of either sign, in a body. Its column needs sa_type=BIGINT.
Whole = Annotated[int, Interval(ge=-MAX_INT, le=MAX_INT), BeforeValidator(require_number)]
# The same in a query, which has only text.
WholeQuery = Annotated[int, Interval(ge=-MAX_INT, le=MAX_INT), DIGITS]
# true or false, and not "yes" or 1.
Flag = Annotated[bool, Strict()]
# Stored in lower case, so that a unique constraint ignores case.
Email = Annotated[
    EmailStr,
    MaxLen(255),
    BeforeValidator(refuse_display_name),
    AfterValidator(str.lower),
    # email-validator takes international addresses, and at most the 254 characters of RFC 5321.
    WithJsonSchema({"type": "string", "format": "idn-email", "maxLength": 254}),
]
# A date without a time.
Day = Annotated[date, BeforeValidator(require_date)]
# A moment in time, with an offset, converted to UTC.
Instant = Annotated[AwareDatetime, BeforeValidator(require_date_and_time), AfterValidator(to_utc)]
INSTANT: TypeAdapter[datetime] = TypeAdapter(Instant)


Shown = TypeVar("Shown", bound=SQLModel)


class Update(SQLModel, Generic[Shown]):
    """The base of Update schemas: what a PATCH may send, for a row that GET shows as `Shown`.

    Forms send back whatever they were shown. So a PATCH may repeat every field of `Shown`. An Update
    schema declares those that may be changed.
    """

    model_config = REFUSE_UNKNOWN
    SHOWN: ClassVar[type[SQLModel]]

    def __class_getitem__(cls, shown: Any) -> Any:
        """Makes a base class with every field of `shown`, all of them read-only."""
        types = {name: field.annotation for name, field in shown.model_fields.items()}
        types |= {name: field.return_type for name, field in shown.model_computed_fields.items()}
        default = left_out(schema_extra={"frozen": True, "json_schema_extra": {"readOnly": True}})
        # A value of another type is not refused yet: it differs from the one shown, like any other.
        fields: Any = {name: (Annotated[t, SkipValidation], default) for name, t in types.items()}
        base = create_model(f"Update[{shown.__name__}]", __base__=cls, **fields)
        base.SHOWN = shown
        return base

    def changes(self, row: object) -> dict[str, Any]:
        """The fields given that may be changed. 422 when another one differs from what GET shows."""
        read_only = {name for name, field in type(self).model_fields.items() if field.frozen}
        if repeated := read_only & self.model_fields_set:
            shown = self.SHOWN.model_validate(row, from_attributes=True).model_dump()
            errors = [
                {"loc": ("body", name), "msg": "this cannot be changed", "type": "read_only"}
                for name in shown
                if name in repeated and not is_same(getattr(self, name), shown[name])
            ]
            if errors:
                raise RequestValidationError(errors)
        return self.model_dump(exclude_unset=True, exclude=read_only)


def is_same(given: Any, shown: Any) -> bool:
    """Whether a JSON value is the one shown. JavaScript cuts a moment to milliseconds."""
    if isinstance(given, dict) and isinstance(shown, dict):
        return given.keys() == shown.keys() and all(is_same(given[k], shown[k]) for k in shown)
    if isinstance(given, list) and isinstance(shown, list):
        return len(given) == len(shown) and all(map(is_same, given, shown))
    if isinstance(given, str) and isinstance(shown, datetime):
        with suppress(ValueError):
            given = INSTANT.validate_python(given)
        return given in (shown, shown.replace(microsecond=shown.microsecond // 1000 * 1000))
    same_kind = isinstance(given, bool) == isinstance(shown, bool)  # in Python, 1 == True
    return same_kind and bool(given == to_jsonable_python(shown))
