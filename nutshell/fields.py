"""Reusable types of fields and columns, and the bases of Read and Update schemas."""

import re
import secrets
import time
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Generic, TypeVar
from uuid import UUID

from annotated_types import Interval, MaxLen
from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    HttpUrl,
    SkipValidation,
    Strict,
    StringConstraints,
    TypeAdapter,
    WithJsonSchema,
    create_model,
    validate_email,
)
from pydantic_core import to_jsonable_python
from sqlalchemy import BigInteger, Integer
from sqlmodel import Field, SQLModel

# Every constraint needs a name, so that migrations can alter it.
SQLModel.metadata.naming_convention = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}

# SQLite generates ids only for columns declared INTEGER, which have 64 bits there. AUTOINCREMENT prevents
# it from reusing the ids of deleted rows.
BIGINT = BigInteger().with_variant(Integer, "sqlite")
NEVER_REUSE_IDS = {"sqlite_autoincrement": True}

# For Create, Update and Filter schemas: a misspelt field is an error.
REFUSE_UNKNOWN: Any = ConfigDict(extra="forbid")


def example(**fields: Any) -> Any:
    """The `model_config` of an Update schema, with the body that /docs proposes.

    By default /docs would propose to overwrite every field.
    """
    return ConfigDict(json_schema_extra={"examples": [fields]})


def left_out(**options: Any) -> Any:
    """The default of a field that is optional but not nullable. If it is left out, its value is None."""
    return Field(default_factory=lambda: None, **options)


LEFT_OUT = left_out()


def now() -> datetime:
    return datetime.now(UTC)


def uuid7() -> UUID:
    """Returns a time-ordered UUID (RFC 9562, section 5.7), exact to a quarter of a microsecond."""
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    head = milliseconds << 16 | 7 << 12 | (nanoseconds << 12) // 1_000_000
    return UUID(int=head << 64 | 0b10 << 62 | secrets.randbits(62))


@lru_cache  # a POST checks an address twice: in the Create schema, and in the table class
def check_email(address: str) -> str:
    """Returns the address in lower case, so that a unique constraint ignores case.

    Rejects `Ada <ada@example.com>`, of which pydantic would keep only the address.
    """
    if "<" in address:
        raise ValueError("give the address alone, without a name")
    return validate_email(address)[1].lower()


def require_number(value: object) -> object:
    """Rejects "1" and true, which pydantic accepts as numbers. In JSON, 1.0 is an integer."""
    if isinstance(value, str | bool):
        raise ValueError("give a number")  # noqa: TRY004 (pydantic takes no TypeError)
    return value


def require_digits(value: object) -> object:
    """Rejects " 4", "+4", "4.0" and "1_000" in a path or query, which pydantic accepts as integers."""
    if isinstance(value, str) and not re.fullmatch("-?[0-9]+", value):
        raise ValueError("give a whole number, in digits")
    return value


def require_true_or_false(value: object) -> object:
    """Rejects "1", "yes" and "True" in a query, which pydantic accepts as booleans."""
    if isinstance(value, str) and value not in ("true", "false"):
        raise ValueError("give true or false")
    return value


def require_date_and_time(value: object) -> object:
    """Rejects numbers, which pydantic accepts as seconds since 1970."""
    if re.search(r"[Tt ][\d:.]+ \d", str(value)):
        raise ValueError("in a URL, write + as %2B: by itself it means a space")
    if isinstance(value, datetime) or re.match(r"\d{4}-\d\d-\d\d[Tt ]", str(value)):
        return value
    raise ValueError("give a date and time with an offset, as in 2030-01-31T12:00:00Z (RFC 3339)")


def require_date(value: object) -> object:
    """Rejects numbers and times, which pydantic accepts as dates."""
    if isinstance(value, datetime) or not re.fullmatch(r"\d{4}-\d\d-\d\d", str(value)):
        raise ValueError("give a date, as in 2030-01-31 (RFC 3339)")
    return value


def require_uuid(value: object) -> object:
    """Rejects braces, `urn:uuid:` and missing hyphens, which pydantic accepts."""
    if isinstance(value, UUID) or re.fullmatch(UUID_PATTERN, str(value)):
        return value
    raise ValueError("give a UUID, as in 0190a5f4-7c1e-7000-8000-0123456789ab")


def require_url(value: str) -> str:
    """Rejects what is no http or https URL. What HttpUrl would correct is kept, or rejected, as it is."""
    if not re.fullmatch(URL_PATTERN, value) or re.search(r"[\x00-\x1f\x7f]", value):
        raise ValueError("give a URL, as in https://example.com/, without spaces")
    URL.validate_python(value)
    return value


def to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("the year in UTC must be from 1 to 9999") from None


# JavaScript, and the numbers of an OpenAPI document, are exact up to 2**53.
MAX_INT = 2**53 - 1

NO_NUL = r"^[^\x00]*$"
UUID_PATTERN = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
URL_PATTERN = r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s\\]+$"
URL: TypeAdapter[HttpUrl] = TypeAdapter(HttpUrl)

# For integers in a path or a query.
DIGITS = BeforeValidator(require_digits)
# The id of a row, in a path or a query.
Id = Annotated[int, Interval(ge=1, le=MAX_INT), DIGITS]
# The id of another row, in a body.
Reference = Annotated[Id, BeforeValidator(require_number)]
# PostgreSQL cannot store NUL.
Text = Annotated[str, StringConstraints(pattern=NO_NUL)]
# An integer in a body. Its column needs sa_type=BIGINT. With the bounds after the validator, a field can
# narrow them.
Whole = Annotated[int, BeforeValidator(require_number), Interval(ge=-MAX_INT, le=MAX_INT)]
# The same in a query.
WholeQuery = Annotated[int, DIGITS, Interval(ge=-MAX_INT, le=MAX_INT)]
# true or false, but not "yes" or 1.
Flag = Annotated[bool, Strict()]
# The same in a query.
FlagQuery = Annotated[bool, BeforeValidator(require_true_or_false)]
Email = Annotated[
    str,
    MaxLen(255),
    AfterValidator(check_email),
    # email-validator accepts international addresses, with up to 254 characters (RFC 5321).
    WithJsonSchema({"type": "string", "format": "idn-email", "maxLength": 254}),
]
# In a body, a path or a query. SQLModel makes its column. An id has `default_factory=uuid7`, and its table
# UuidFilter.
Uuid = Annotated[UUID, BeforeValidator(require_uuid)]
UuidId = Uuid
# Stored as it was sent. JSON Schema calls a URL with letters outside ASCII `iri`.
Url = Annotated[
    str,
    MaxLen(2000),
    AfterValidator(require_url),
    WithJsonSchema({"type": "string", "format": "iri", "pattern": URL_PATTERN, "maxLength": 2000}),
]
# A date without a time.
Day = Annotated[date, BeforeValidator(require_date)]
# A date and time with an offset, converted to UTC.
Instant = Annotated[AwareDatetime, BeforeValidator(require_date_and_time), AfterValidator(to_utc)]
INSTANT: TypeAdapter[datetime] = TypeAdapter(Instant)


class Read(SQLModel):
    """The base of Read schemas, which declare only names and types.

    `__init__` is pydantic's, which needs no Python code for a row. SQLModel's own, which table classes
    need, would make the validation of a list twice as slow.
    """

    __init__ = BaseModel.__init__


Shown = TypeVar("Shown", bound=SQLModel)


class Update(SQLModel, Generic[Shown]):
    """The base of Update schemas. `Shown` is the schema with which GET shows the row.

    An Update schema declares the fields that can be changed. All other fields of `Shown` are read-only:
    a PATCH may repeat them unchanged, because forms send back everything they were shown.
    """

    model_config = REFUSE_UNKNOWN
    SHOWN: ClassVar[type[SQLModel]]

    def __class_getitem__(cls, shown: Any) -> Any:
        """Creates a base class in which every field of `shown` is read-only."""
        types = {name: field.rebuild_annotation() for name, field in shown.model_fields.items()}
        types |= {name: field.return_type for name, field in shown.model_computed_fields.items()}
        default = left_out(schema_extra={"frozen": True, "json_schema_extra": {"readOnly": True}})
        # Values of these are not validated: `changes` compares them with what GET shows.
        fields: Any = {name: (Annotated[t, SkipValidation], default) for name, t in types.items()}
        base = create_model(f"Update[{shown.__name__}]", __base__=cls, **fields)
        base.SHOWN = shown
        return base

    def changes(self, row: object) -> dict[str, Any]:
        """Returns the fields to change. Raises 422 if a read-only field differs from what GET shows."""
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
    """Whether a JSON value equals the one shown. JavaScript truncates instants to milliseconds."""
    if isinstance(given, dict) and isinstance(shown, dict):
        return given.keys() == shown.keys() and all(is_same(given[k], shown[k]) for k in shown)
    if isinstance(given, list) and isinstance(shown, list):
        return len(given) == len(shown) and all(map(is_same, given, shown))
    if isinstance(given, str) and isinstance(shown, datetime):
        with suppress(ValueError):
            given = INSTANT.validate_python(given)
        return given in (shown, shown.replace(microsecond=shown.microsecond // 1000 * 1000))
    if isinstance(shown, Decimal):
        shown = f"{shown:f}"
    same_kind = isinstance(given, bool) == isinstance(shown, bool)  # in Python, 1 == True
    return same_kind and bool(given == to_jsonable_python(shown))
