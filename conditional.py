"""Conditional requests (RFC 9110, 13): nobody overwrites what they have not seen."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, HTTPException, Request, Response
from pydantic.json_schema import SkipJsonSchema

from database import SAFE_METHODS, AsyncSession
from models import Post


def etag(row: Any) -> str:
    """Changes whenever the answer does: ids are never reused, versions only grow."""
    if isinstance(row, Post) and "author" in row.__dict__:
        return f'"{row.version}.{row.author.version}"'  # this answer shows the author too
    return f'"{row.version}"'


def names(header: str | None, tag: str) -> bool:
    """Whether a list of entity tags has exactly this one, or is `*`."""
    tags = [part.strip() for part in (header or "").split(",")]
    return "*" in tags or tag in tags


@dataclass
class Conditions:
    """What the caller knows of the row: to be compared before a change, and told in the answer."""

    request: Request
    response: Response
    if_match: str | None
    if_none_match: str | None

    def check(self, row: Any) -> None:
        """Raises 412 when the row has moved on. The row must be locked, that it cannot yet."""
        if self.if_match is not None and not names(self.if_match, etag(row)):
            raise HTTPException(412, "The row has changed since you read it; read it again.")

    async def check_stored(
        self, session: AsyncSession, entity: type[Any], ident: Any, **options: Any
    ) -> None:
        """`check` for a change that does not read the row. When it must be read, it is locked."""
        if self.if_match is not None:
            lock = {"of": entity}  # and not, say, a post's author
            row = await session.get(entity, ident, with_for_update=lock, **options)
            if row is not None:
                self.check(row)

    def tag(self, row: Any) -> None:
        """Sets the `ETag` of the answer. On GET, raises 304 when the caller has it already."""
        tag = etag(row)
        known = (self.if_none_match or "").replace("W/", "")  # weak comparison, as 13.1.2 says
        if self.request.method in SAFE_METHODS and names(known, tag):
            raise HTTPException(304, headers={"ETag": tag})
        self.response.headers["ETag"] = tag


# What the document says of an answer with an entity tag.
TAGGED: dict[int | str, dict[str, Any]] = {
    200: {"headers": {"ETag": {"schema": {"type": "string"}, "description": "for `If-Match`"}}},
}
CACHED = TAGGED | {304: {"description": "Not Modified"}}


# async: what is not would be run in a thread, which costs more than all it does.
async def read_conditions(
    request: Request,
    response: Response,
    if_match: Annotated[
        str | SkipJsonSchema[None],
        Header(description="change the row only while it has this `ETag`, else 412"),
    ] = None,
    if_none_match: Annotated[
        str | SkipJsonSchema[None],
        Header(description="on GET: 304 when the row still has this `ETag`"),
    ] = None,
) -> Conditions:
    return Conditions(request, response, if_match, if_none_match)


ConditionsDep = Annotated[Conditions, Depends(read_conditions)]
