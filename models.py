"""The data: per resource a table class beside its Create, Read, Update and Filter schemas.

Constraints are stated once, in the types below or in a resource's Base class. A table class is
never a request body: SQLModel validates nothing when it makes one.
"""

import re
from datetime import UTC, datetime
from functools import cache
from types import SimpleNamespace
from typing import Annotated, Any, Literal, Self

from annotated_types import Interval, MaxLen, MinLen
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    EmailStr,
    ModelWrapValidatorHandler,
    Strict,
    WithJsonSchema,
    model_validator,
)
from pydantic import StringConstraints as Matches
from sqlalchemy import JSON, BigInteger, Index, Integer, Row, bindparam
from sqlalchemy.orm import Mapped, declared_attr
from sqlmodel import Field, Relationship, SQLModel, select

# A migration can alter only what has a name, so every constraint gets one.
SQLModel.metadata.naming_convention = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}

# SQLite numbers rows by itself only in a column declared INTEGER, which has 64 bits there anyway;
# AUTOINCREMENT keeps it from giving the id of a deleted row to a new one.
BIGINT = BigInteger().with_variant(Integer, "sqlite")
NEVER_REUSE_IDS = {"sqlite_autoincrement": True}

# A misspelt field or query parameter is an error, not a silence.
REFUSE_UNKNOWN: Any = ConfigDict(extra="forbid")

# The default of an Update field that may be left out but not be null.
LEFT_OUT: Any = Field(default_factory=lambda: None)


def plain_address(value: object) -> object:
    """Refuses `Ada <ada@example.com>`, of which pydantic would silently keep a half."""
    if isinstance(value, str) and "<" in value:
        raise ValueError("give the address alone, without a name")
    return value


def a_number(value: object) -> object:
    """Refuses "1" and true, which pydantic would take for numbers. In JSON, 1.0 is a whole number."""
    if isinstance(value, str | bool):
        raise ValueError("give a number")  # noqa: TRY004 (pydantic takes no TypeError)
    return value


def date_and_time(value: object) -> object:
    """Refuses the numbers that pydantic would take for seconds since 1970."""
    if isinstance(value, datetime) or re.match(r"\d{4}-\d\d-\d\d[Tt ]", str(value)):
        return value
    raise ValueError("give a date and time with an offset, as in 2030-01-31T12:00:00Z (RFC 3339)")


def to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("the year in UTC must be from 1 to 9999") from None


# Beyond 2**53 neither JavaScript nor the numbers of an OpenAPI document are exact.
MAX_INT = 2**53 - 1
Id = Annotated[int, Interval(ge=1, le=MAX_INT)]
Reference = Annotated[Id, BeforeValidator(a_number)]
# PostgreSQL cannot store NUL.
Text = Annotated[str, Matches(pattern=r"^[^\x00]*$")]
Name = Annotated[Text, MinLen(1), MaxLen(100)]
Title = Annotated[Text, MinLen(1), MaxLen(200)]
Bio = Annotated[Text | None, MaxLen(1000)]
Body = Annotated[Text, MinLen(1), MaxLen(10_000)]
Description = Annotated[Text | None, MaxLen(500)]
Flag = Annotated[bool, Strict()]
Email = Annotated[
    EmailStr,
    MaxLen(255),
    BeforeValidator(plain_address),
    AfterValidator(str.lower),
    # email-validator takes international addresses, and at most what RFC 5321 allows: one
    # character less than the column.
    WithJsonSchema({"type": "string", "format": "idn-email", "maxLength": 254}),
]
Instant = Annotated[AwareDatetime, BeforeValidator(date_and_time), AfterValidator(to_utc)]


# What a session writes at its flush names the version it has read, and fails when that has moved
# on. `AsyncSession.update` in database.py counts it in the statement.
VERSIONED: Any = declared_attr.directive(
    lambda table: {"version_id_col": table.__table__.c.version}
)


def now() -> datetime:
    return datetime.now(UTC)


class Page(SQLModel):
    """Which rows of a list to answer with."""

    model_config = REFUSE_UNKNOWN

    limit: int = Field(default=50, ge=1, le=100, description="rows in one answer")
    offset: int = Field(default=0, ge=0, le=MAX_INT, description="rows to skip")
    after: Id | None = Field(default=None, description="the last id seen: go on behind it")
    order: Literal["asc", "desc"] = Field(default="asc", description="by id")

    def select(self, table: type[SQLModel], shown: type[SQLModel] | None = None) -> Any:
        """These rows, of a table; of those only the columns that `shown` shows.

        Columns cost less than objects, which nobody would change: bench/results.md.
        """
        return select_page(table, shown, self.order, self.after is not None, self.offset > 0)

    def values(self) -> dict[str, int | None]:
        """What the statement of `select` is run with: a row more tells of a further page."""
        return {"limit": self.limit + 1, "after": self.after, "offset": self.offset}


@cache
def select_page(table: Any, shown: Any, order: str, after: bool, offset: bool) -> Any:
    # Once for each shape of page, not for each request: bench/results.md has the gain.
    columns = table.__table__.c
    query = select(*(columns[name] for name in shown.model_fields) if shown else [table])
    if after:
        edge: Any = bindparam("after", type_=BigInteger)
        query = query.where(columns.id > edge if order == "asc" else columns.id < edge)
    if offset:
        query = query.offset(bindparam("offset", type_=BigInteger))
    query = query.order_by(columns.id if order == "asc" else columns.id.desc())
    return query.limit(bindparam("limit", type_=BigInteger))


class Stored(SQLModel):
    """A Read schema. What it shows was validated on its way in, and goes out as it is."""

    @model_validator(mode="wrap")
    @classmethod
    def trust(cls, row: Any, validate: ModelWrapValidatorHandler[Self]) -> Any:
        fields = cls.__pydantic_fields__
        if isinstance(row, Row):
            return SimpleNamespace(**dict(zip(fields, row, strict=True)))
        if hasattr(row, "__table__"):  # asked by name, so that what was not loaded is an error
            return SimpleNamespace(**{name: getattr(row, name) for name in fields})
        return validate(row)


class UserBase(SQLModel):
    email: Email = Field(unique=True, schema_extra={"examples": ["ada@example.com"]})
    name: Name = Field(schema_extra={"examples": ["Ada Lovelace"]})
    bio: Bio = Field(default=None, schema_extra={"examples": ["Wrote the first program."]})


class User(UserBase, table=True):
    __tablename__ = "users"
    __mapper_args__ = VERSIONED
    __table_args__ = NEVER_REUSE_IDS

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    created_at: datetime = Field(default_factory=now)
    version: int = Field(default=1, sa_type=BigInteger)


class UserCreate(UserBase):
    model_config = REFUSE_UNKNOWN


class UserRead(UserBase, Stored):
    id: int
    created_at: datetime


class UserUpdate(SQLModel):
    model_config = REFUSE_UNKNOWN

    email: Email = LEFT_OUT
    name: Name = LEFT_OUT
    bio: Bio = None


class UserFilter(Page):
    email: Email | None = None


class PostBase(SQLModel):
    title: Title = Field(schema_extra={"examples": ["Notes on the engine"]})
    body: Body = Field(schema_extra={"examples": ["It weaves algebraical patterns."]})


class Post(PostBase, table=True):
    __tablename__ = "posts"
    __mapper_args__ = VERSIONED
    # With the id behind it an index also serves the pages of a filtered list, which are in id order.
    __table_args__ = (Index(None, "author_id", "id"), NEVER_REUSE_IDS)

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    author_id: int = Field(foreign_key="users.id", ondelete="CASCADE", sa_type=BIGINT)
    created_at: datetime = Field(default_factory=now)
    version: int = Field(default=1, sa_type=BigInteger)
    author: Mapped[User] = Relationship()


class PostCreate(PostBase):
    model_config = REFUSE_UNKNOWN


class PostRead(PostBase, Stored):
    id: int
    author_id: int
    created_at: datetime


class PostReadWithAuthor(PostRead):
    author: UserRead


class PostUpdate(SQLModel):
    model_config = REFUSE_UNKNOWN

    title: Title = LEFT_OUT
    body: Body = LEFT_OUT


class PostFilter(Page):
    author_id: Id | None = None


class TodoBase(SQLModel):
    title: Title = Field(schema_extra={"examples": ["Buy punched cards"]})
    done: Flag = False
    due_at: Instant | None = Field(
        default=None, schema_extra={"examples": ["2030-01-31T12:00:00Z"]}
    )
    owner_id: Reference = Field(foreign_key="users.id", ondelete="CASCADE", sa_type=BIGINT)


class Todo(TodoBase, table=True):
    __tablename__ = "todos"
    __mapper_args__ = VERSIONED
    __table_args__ = (
        Index(None, "owner_id", "id"),
        Index(None, "done", "id"),
        Index(None, "due_at"),
        NEVER_REUSE_IDS,
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    created_at: datetime = Field(default_factory=now)
    version: int = Field(default=1, sa_type=BigInteger)


class TodoCreate(TodoBase):
    model_config = REFUSE_UNKNOWN


class TodoRead(TodoBase, Stored):
    id: int
    created_at: datetime


class TodoUpdate(SQLModel):
    model_config = REFUSE_UNKNOWN

    title: Title = LEFT_OUT
    done: Flag = LEFT_OUT
    due_at: Instant | None = None
    owner_id: Reference = LEFT_OUT


class TodoFilter(Page):
    owner_id: Id | None = None
    done: bool | None = None
    due_before: Instant | None = None
    due_after: Instant | None = None
    q: Title | None = Field(default=None, description="text in the title, whatever its case")


class ItemBase(SQLModel):
    name: Title = Field(schema_extra={"examples": ["Difference engine"]})
    description: Description = Field(
        default=None, schema_extra={"examples": ["Brass, 8,000 parts."]}
    )
    owner_id: Reference | None = Field(
        default=None, foreign_key="users.id", ondelete="SET NULL", sa_type=BIGINT
    )


class Item(ItemBase, table=True):
    __tablename__ = "items"
    __mapper_args__ = VERSIONED
    __table_args__ = (Index(None, "owner_id", "id"), Index(None, "name", "id"), NEVER_REUSE_IDS)

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    created_at: datetime = Field(default_factory=now)
    version: int = Field(default=1, sa_type=BigInteger)


class ItemCreate(ItemBase):
    model_config = REFUSE_UNKNOWN


class ItemRead(ItemBase, Stored):
    id: int
    created_at: datetime


class ItemUpdate(SQLModel):
    model_config = REFUSE_UNKNOWN

    name: Title = LEFT_OUT
    description: Description = None
    owner_id: Reference | None = None


class ItemFilter(Page):
    owner_id: Id | None = None
    name: Title | None = None


class IdempotencyKey(SQLModel, table=True):
    """The answer that a POST with this key was given, stored in the transaction of its rows."""

    __tablename__ = "idempotency_keys"

    # SHA-256 in hexadecimal: of the key and who sent it; of the request.
    key: str = Field(primary_key=True, max_length=64)
    request: str = Field(max_length=64)
    status: int
    headers: dict[str, str] = Field(sa_type=JSON)
    body: bytes
    created_at: datetime = Field(default_factory=now, index=True)
