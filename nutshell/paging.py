"""Lists, a page at a time. A page after the last id seen costs the same however deep it is."""

from typing import Annotated, Any, Literal, TypeVar

import sqlalchemy
from annotated_types import Interval
from pydantic import BaseModel, Field, ValidationInfo, field_validator
from sqlmodel import SQLModel, select
from sqlmodel.sql.expression import Select

from nutshell.fields import DIGITS, MAX_INT, REFUSE_UNKNOWN, Id

Query = TypeVar("Query", bound=sqlalchemy.Select[Any])


class Page(BaseModel):
    """The query parameters of every list. A Filter schema adds its own.

    It also names the columns that its list can be sorted by, each of which leads an index:
    `sort: Literal["id", "title"] = "id"`.
    """

    model_config = REFUSE_UNKNOWN

    limit: Annotated[int, Interval(ge=1, le=100), DIGITS] = Field(
        default=50, description="rows in one answer"
    )
    offset: Annotated[int, Interval(ge=0, le=MAX_INT), DIGITS] = Field(
        default=0, description="rows to skip"
    )
    sort: str = Field(default="id", pattern="^id$", description="the column to sort by; ties by id")
    order: Literal["asc", "desc"] = Field(default="asc", description="null comes last, or first")
    after: Annotated[int, Interval(ge=0, le=MAX_INT), DIGITS] = Field(
        default=0, description="the last id seen: go on behind it; 0 begins"
    )
    id: list[Id] = Field(default=[], max_length=100, description="only the rows with these ids")

    @field_validator("after")
    @classmethod
    def check_order(cls, after: int, info: ValidationInfo) -> int:
        if after and info.data.get("sort", "id") != "id":
            raise ValueError("goes with the order of ids alone; use offset")
        return after

    @property
    def size(self) -> int:
        """Rows in this page. Whoever asks for rows by their ids gets them all."""
        return self.limit if "limit" in self.model_fields_set else max(self.limit, len(self.id))

    def select(self, table: type[SQLModel], shown: type[BaseModel]) -> Select[Any]:
        """Selects this page of a table, as the schema `shown` shows its rows.

        Where that shows columns alone, only these are selected: columns cost less than objects, and a
        list changes nothing (bench/results.md). Where it shows relations too, say how to load them:
        `.options(joinedload(…))`.
        """
        columns = table.__table__.c  # type: ignore[attr-defined]
        names = shown.model_fields
        query: Any = select(table)
        if all(name in columns for name in names):
            query = Select(*(columns[name] for name in names))
        return self.cut(query, table)

    def cut(self, query: Query, table: type[SQLModel]) -> Query:
        """Cuts this page out of a query of the table.

        It asks for one row more than the page has, which tells whether there is a further page.
        """
        columns = table.__table__.c  # type: ignore[attr-defined]
        if self.id:
            query = query.where(columns.id.in_(self.id))
        if self.after:
            query = query.where(
                columns.id > self.after if self.order == "asc" else columns.id < self.after
            )
        for column in dict.fromkeys((columns[self.sort], columns.id)):
            by = column if self.order == "asc" else column.desc()
            if column.nullable:  # PostgreSQL's own order, on SQLite too
                by = by.nulls_last() if self.order == "asc" else by.nulls_first()
            query = query.order_by(by)
        return query.offset(self.offset or None).limit(self.size + 1)
