"""Pagination by keyset: a page costs the same however deep it is."""

import operator
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from annotated_types import Interval, MaxLen
from fastapi.exceptions import RequestValidationError
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from sqlalchemy import inspect, literal, tuple_
from sqlmodel import SQLModel, select
from sqlmodel.sql.expression import Select

from nutshell.columns import Exact, ExactNumeric
from nutshell.fields import (
    DIGITS,
    MAX_INT,
    REFUSE_UNKNOWN,
    UUID_PATTERN,
    Day,
    Id,
    Instant,
    Text,
    UuidId,
    Whole,
    left_out,
)

# The types of a cursor's value, by column type. They admit only values that both databases can compare.
COMPARABLE: dict[type, Any] = {str: Text, int: Whole, datetime: Instant, date: Day}


class Filter(BaseModel):
    """The query parameters of every list. Filter schemas inherit from it and add their own.

    They also declare the columns to sort by, each of which needs an index:
    `sort: Literal["id", "title"] = "id"`.
    """

    model_config = REFUSE_UNKNOWN

    limit: Annotated[int, Interval(ge=1, le=100), DIGITS] = Field(
        default=50, description="rows in one response, at most"
    )
    offset: Annotated[int, Interval(ge=0, le=MAX_INT), DIGITS] = Field(
        default=0, description="rows to skip"
    )
    sort: str = Field(default="id", pattern="^id$")
    order: Literal["asc", "desc"] = Field(
        default="asc", description="nulls come last with asc, first with desc"
    )
    after: Annotated[int, Interval(ge=0, le=MAX_INT), DIGITS] = Field(
        default=0,
        description="continue after the row with this id, which is excluded; 0 starts at the beginning",
    )
    # A header line may have 16,000 bytes, and escaping a character may take twelve.
    cursor: Annotated[str, MaxLen(1300)] = left_out(
        description="continue a sorted list here; taken from the `Link` header; 0 starts at the beginning",
        schema_extra={"examples": ["0"], "json_schema_extra": {"pattern": "^[A-Za-z0-9_-]+$"}},
    )
    id: list[Id] = Field(
        default=[], max_length=100, description="only the rows with these ids: `id=1&id=2`"
    )

    _table: type[SQLModel] = PrivateAttr()
    _names: tuple[str, ...] = PrivateAttr(
        ()
    )  # of the selected columns; empty when whole rows are selected

    @field_validator("after")
    @classmethod
    def check_order(cls, after: int, info: ValidationInfo) -> int:
        if after and info.data.get("sort", "id") != "id":
            raise ValueError("works only with sort=id; otherwise follow the Link header")
        return after

    @property
    def size(self) -> int:
        """Rows in this page. A request for certain ids gets all of them, unless it has a limit."""
        return self.limit if "limit" in self.model_fields_set else max(self.limit, len(self.id))

    def select(self, table: type[SQLModel], shown: type[BaseModel]) -> Select[Any]:
        """Selects what the schema `shown` needs of a table. `reply.page` fetches a page of it.

        If the schema contains only columns, only these are selected: that costs less than loading
        objects (lab/bench/results.md). If it also contains relationships, add how to load them:
        `.options(joinedload(…))`.
        """
        self._table = table
        query, self._names = select_shown(table, shown)
        if self.id:
            query = query.where(inspect(table).columns["id"].in_(self.id))
        return query

    def in_order(self, query: Select[Any]) -> list[Select[Any]]:
        """Returns the statements that, one after the other, fetch this page and what follows it.

        A nullable column needs two: one for the values and one for the nulls, which follow the values in
        ascending order and precede them in descending order. A single one could not use the index.
        """
        columns = inspect(self._table).columns
        column, key = columns[self.sort], columns["id"]
        descending = self.order == "desc"
        beyond = operator.lt if descending else operator.gt
        by_id = query.order_by(key.desc() if descending else key)
        resumed = self.cursor not in (None, "0")
        if resumed and (self.sort == "id" or self.offset):
            raise self.refuse_cursor()
        if self.sort == "id":
            following = by_id.where(beyond(key, self.after)) if self.after else by_id
            return [following.offset(self.offset or None)]
        if self.offset:  # skipped rows are read anyway
            by_value = query.order_by(
                column.desc().nulls_first() if descending else column.nulls_last()
            )
            return [by_value.order_by(key.desc() if descending else key).offset(self.offset)]
        by_value = query.order_by(*((column.desc(), key.desc()) if descending else (column, key)))
        values, nulls = [by_value.where(column.is_not(None))], [by_value.where(column.is_(None))]
        if not column.nullable:
            values, nulls = [by_value], []
        if resumed:
            value, last_id = self.read_cursor()
            if value is None:
                nulls = [part.where(beyond(key, last_id)) for part in nulls]
                values = values if descending else []
            else:
                last = tuple_(literal(value, column.type), literal(last_id, key.type))
                values = [part.where(beyond(tuple_(column, key), last)) for part in values]
                nulls = [] if descending else nulls
        return nulls + values if descending else values + nulls

    def as_shown(self, rows: list[Any]) -> list[Any]:
        """Turns rows of columns into dicts, which pydantic validates fastest."""
        names = self._names
        return [dict(zip(names, row, strict=True)) for row in rows] if names else rows

    def next_page(self, last: Any) -> tuple[str, object]:
        """Returns the parameter that continues the list after this row."""
        if self.sort == "id":
            return "after", last.id
        place = (self.sort, self.order, getattr(last, self.sort), last.id)
        text = cursor_type(self._table, self.sort).dump_json(place)
        return "cursor", urlsafe_b64encode(text).decode().rstrip("=")

    def read_cursor(self) -> tuple[Any, Any]:
        """Returns the value and the id of the last row seen. Raises 422 for a cursor of another list."""
        try:
            text = urlsafe_b64decode(f"{self.cursor}==")
            place = cursor_type(self._table, self.sort).validate_json(text)
        except ValueError:
            place = None
        if place is None or place[:2] != (self.sort, self.order):
            raise self.refuse_cursor()
        return place[2], place[3]

    def refuse_cursor(self) -> RequestValidationError:
        message = "not a cursor of this list in this order"
        return RequestValidationError(
            [{"loc": ("query", "cursor"), "msg": message, "type": "cursor"}]
        )


def start_at_zero(value: object) -> object:
    return None if value == "0" else value


class UuidFilter(Filter):
    """The base of the Filter schema of a table whose ids are UUIDs."""

    after: Annotated[
        UuidId | None,
        BeforeValidator(start_at_zero),
        WithJsonSchema({"type": "string", "pattern": f"^(0|{UUID_PATTERN})$"}),
    ] = left_out(  # type: ignore[assignment]
        description="continue after the row with this id, which is excluded; 0 starts at the beginning"
    )
    id: list[UuidId] = Field(  # type: ignore[assignment]
        default=[], max_length=100, description="only the rows with these ids: `id=…&id=…`"
    )


@cache
def select_shown(
    table: type[SQLModel], shown: type[BaseModel]
) -> tuple[Select[Any], tuple[str, ...]]:
    """Builds the SELECT with which each request for a list begins, and the names of its columns.

    There are no names if it selects objects, because the schema shows more than columns.
    """
    columns = inspect(table).columns
    query: Any = select(table)
    names: tuple[str, ...] = ()
    if all(name in columns for name in shown.model_fields):
        names = tuple(shown.model_fields)
        query = Select(*(columns[name] for name in names))
    return cast(Select[Any], query), names


@cache
def cursor_type(table: type[SQLModel], sort: str) -> TypeAdapter[Any]:
    """The type of a cursor: sort column, order, and the last row's value and id."""
    value: Any = Union[*comparable(table, sort), None]
    key: Any = Union[*comparable(table, "id")]
    cursor: Any = tuple[str, str, value, key]
    return TypeAdapter(cursor)


def comparable(table: type[SQLModel], name: str) -> list[Any]:
    """The types of a column's values in a cursor, except None."""
    stored = inspect(table).columns[name].type
    if isinstance(stored, ExactNumeric):
        return [Annotated[Decimal, Exact(stored.precision, stored.scale)]]
    kind = table.model_fields[name].annotation
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    kinds = tuple(str if get_origin(one) is Literal else one for one in kinds)
    return [COMPARABLE.get(one, one) for one in kinds if one is not NoneType]
