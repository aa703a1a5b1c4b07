"""The data: for each resource a table class beside its Create, Read, Update and Filter schemas.

Never use a table class as a request body: SQLModel does not validate table classes. A Base class has the
fields that the table and the Create schema share. Read schemas declare only names and types, because the
data was validated when it was written. In an Update schema, `LEFT_OUT` makes a field optional but not
nullable, and fields that only its Read schema has cannot be changed.
"""

from datetime import datetime
from typing import Annotated, Literal

from annotated_types import MaxLen, MinLen
from sqlalchemy import Index
from sqlalchemy.orm import Mapped
from sqlmodel import Field, Relationship, SQLModel

from nutshell.fields import (
    BIGINT,
    LEFT_OUT,
    NEVER_REUSE_IDS,
    REFUSE_UNKNOWN,
    Email,
    Flag,
    FlagQuery,
    Id,
    Instant,
    Read,
    Reference,
    Text,
    Update,
    example,
    left_out,
    now,
)
from nutshell.paging import Filter

Name = Annotated[Text, MinLen(1), MaxLen(100)]
Title = Annotated[Text, MinLen(1), MaxLen(200)]
Bio = Annotated[Text | None, MaxLen(1000)]
Body = Annotated[Text, MinLen(1), MaxLen(10_000)]
Description = Annotated[Text | None, MaxLen(500)]


class UserBase(SQLModel):
    email: Email = Field(unique=True, schema_extra={"examples": ["ada@example.com"]})
    name: Name = Field(schema_extra={"examples": ["Ada Lovelace"]})
    bio: Bio = Field(default=None, schema_extra={"examples": ["Wrote the first program."]})


class User(UserBase, table=True):
    __tablename__ = "users"
    __table_args__ = (Index(None, "name", "id"), NEVER_REUSE_IDS)

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    created_at: datetime = Field(default_factory=now)
    # passive_deletes: the database deletes the posts of a user. SQLAlchemy would first load them and set
    # their author_id to null.
    posts: Mapped[list["Post"]] = Relationship(back_populates="author", passive_deletes="all")


class UserCreate(UserBase):
    model_config = REFUSE_UNKNOWN


class UserRead(Read):
    id: int
    email: str
    name: str
    bio: str | None
    created_at: datetime


class UserUpdate(Update[UserRead]):
    model_config = example(name="Ada King")

    email: Email = LEFT_OUT
    name: Name = LEFT_OUT
    bio: Bio = None


class UserFilter(Filter):
    sort: Literal["id", "email", "name"] = "id"
    email: Email = left_out(schema_extra={"examples": ["ada@example.com"]})


class PostBase(SQLModel):
    title: Title = Field(schema_extra={"examples": ["Notes on the engine"]})
    body: Body = Field(schema_extra={"examples": ["It weaves algebraical patterns."]})


class Post(PostBase, table=True):
    __tablename__ = "posts"
    # The index of a filter ends with the id, because lists are in id order by default.
    __table_args__ = (Index(None, "author_id", "id"), NEVER_REUSE_IDS)

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    author_id: int = Field(foreign_key="users.id", ondelete="CASCADE", sa_type=BIGINT)
    created_at: datetime = Field(default_factory=now)
    author: Mapped[User] = Relationship(back_populates="posts")


class PostCreate(PostBase):
    model_config = REFUSE_UNKNOWN


class PostRead(Read):
    id: int
    title: str
    body: str
    author_id: int
    created_at: datetime


class PostReadWithAuthor(PostRead):
    author: UserRead


class PostUpdate(Update[PostReadWithAuthor]):
    model_config = example(title="More notes on the engine")

    title: Title = LEFT_OUT
    body: Body = LEFT_OUT


class PostFilter(Filter):
    sort: Literal["id", "author_id"] = "id"
    author_id: Id = LEFT_OUT


class TodoBase(SQLModel):
    title: Title = Field(schema_extra={"examples": ["Buy punched cards"]})
    done: Flag = False
    due_at: Instant | None = Field(
        default=None, schema_extra={"examples": ["2030-01-31T12:00:00Z"]}
    )
    owner_id: Reference = Field(
        foreign_key="users.id",
        ondelete="CASCADE",
        sa_type=BIGINT,
        schema_extra={"examples": [1]},
    )


class Todo(TodoBase, table=True):
    __tablename__ = "todos"
    __table_args__ = (
        Index(None, "owner_id", "id"),
        Index(None, "done", "id"),
        Index(None, "due_at", "id"),
        NEVER_REUSE_IDS,
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    created_at: datetime = Field(default_factory=now)


class TodoCreate(TodoBase):
    model_config = REFUSE_UNKNOWN


class TodoRead(Read):
    id: int
    title: str
    done: bool
    due_at: datetime | None
    owner_id: int
    created_at: datetime


class TodoUpdate(Update[TodoRead]):
    model_config = example(done=True)

    title: Title = LEFT_OUT
    done: Flag = LEFT_OUT
    due_at: Instant | None = None
    owner_id: Reference = LEFT_OUT


class TodoFilter(Filter):
    sort: Literal["id", "due_at", "done", "owner_id"] = "id"
    owner_id: Id = LEFT_OUT
    done: FlagQuery = LEFT_OUT
    due_before: Instant = LEFT_OUT
    due_after: Instant = LEFT_OUT
    q: Title = left_out(description="text that the title contains, ignoring case")


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
    __table_args__ = (Index(None, "owner_id", "id"), Index(None, "name", "id"), NEVER_REUSE_IDS)

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
    created_at: datetime = Field(default_factory=now)


class ItemCreate(ItemBase):
    model_config = REFUSE_UNKNOWN


class ItemRead(Read):
    id: int
    name: str
    description: str | None
    owner_id: int | None
    created_at: datetime


class ItemUpdate(Update[ItemRead]):
    model_config = example(name="Analytical engine")

    name: Title = LEFT_OUT
    description: Description = None
    owner_id: Reference | None = None


class ItemFilter(Filter):
    sort: Literal["id", "name", "owner_id"] = "id"
    owner_id: Id = LEFT_OUT
    owner_id_is_null: FlagQuery = LEFT_OUT
    name: Title = LEFT_OUT
