"""Lists, a page at a time. A page after the last id seen costs the same however deep it is."""

from typing import Annotated, Any, Literal, TypeVar

import sqlalchemy
from annotated_types import Interval
from pydantic import BaseModel, Field
from sqlmodel import SQLModel
from sqlmodel.sql.expression import Select

from nutshell.fields import DIGITS, MAX_INT, REFUSE_UNKNOWN, Id

Query = TypeVar("Query", bound=sqlalchemy.Select[Any])


class Page(BaseModel):
    """The query parameters of every list. A Filter schema adds its own."""

    model_config = REFUSE_UNKNOWN

    limit: Annotated[int, Interval(ge=1, le=100), DIGITS] = Field(
        default=50, description="rows in one answer"
    )
    offset: Annotated[int, Interval(ge=0, le=MAX_INT), DIGITS] = Field(
        default=0, description="rows to skip"
    )
    after: Id | None = Field(default=None, description="the last id seen: go on behind it")
    order: Literal["asc", "desc"] = Field(default="asc", description="by id")

    def select(self, table: type[SQLModel], shown: type[BaseModel]) -> Select[Any]:
        """Selects this page of a table: only the columns that the schema `shown` shows.

        Columns cost less than objects, and a list changes nothing: bench/results.md.
        """
        columns = table.__table__.c  # type: ignore[attr-defined]
        return self.cut(Select(*(columns[name] for name in shown.model_fields)), columns.id)

    def cut(self, query: Query, key: Any) -> Query:
        """Cuts this page out of a query; `key` is the column of the ids.

        It asks for one row more than `limit`, which tells whether there is a further page.
        """
        if self.after is not None:
            query = query.where(key > self.after if self.order == "asc" else key < self.after)
        query = query.order_by(key if self.order == "asc" else key.desc())
        return query.offset(self.offset or None).limit(self.limit + 1)


def as_dicts(found: Any) -> list[dict[str, Any]]:
    """The rows that a `Page.select` has found, in the form that pydantic reads fastest."""
    names = tuple(found.keys())
    return [dict(zip(names, row, strict=True)) for row in found.all()]
