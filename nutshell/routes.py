"""Behaviour shared by all resource routes: access, entity tags, idempotency keys, pages."""

import re
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, get_origin
from urllib.parse import urlencode

from fastapi import Depends, HTTPException, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.params import Form
from fastapi.routing import APIRoute
from pydantic.fields import FieldInfo
from sqlalchemy import func
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession
from sqlmodel.sql.expression import Select
from starlette.routing import Match
from starlette.types import Scope

from nutshell.access import admit
from nutshell.conditional import STREAMS, tag_answer
from nutshell.database import take_snapshot
from nutshell.idempotency import run_once
from nutshell.openapi.document import describe_route, is_list, is_single
from nutshell.paging import Filter

# PATCH has the semantics of a merge patch (RFC 7396). Other JSON types, such as JSON Patch, differ.
JSON_TYPES = ("application/json", "application/merge-patch+json")

# The query parameters that position a page in its list.
PLACES = ("after", "cursor", "offset")


class PlainRoute(APIRoute):
    """A route that rejects other paths quickly, because Starlette tries all routes in order.

    It compares the part of its path before the first parameter, without a regular expression.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.literal, self.parameter, _ = path.partition("{")

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path: str = scope["path"]  # with ROOT_PATH before it
        possible = self.literal in path if self.parameter else path.endswith(self.literal)
        return super().matches(scope) if possible else (Match.NONE, {})


class ResourceRoute(PlainRoute):
    """Adds access control, `Idempotency-Key`, `ETag` and their documentation to every route of the app."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        describe_route(self)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        tagged, keyed = is_single(self) or is_list(self), self.methods == {"POST"}
        with_json = self.body_field is not None and not isinstance(self.body_field.field_info, Form)
        known = query_parameters(self.dependant)

        async def handle_resource(request: Request) -> Response:
            await admit(request)  # before the body is read
            if request.scope["query_string"]:
                check_parameters(request, known)
            if with_json:
                check_body(request)
            if keyed and "idempotency-key" in request.headers:
                answer = await run_once(request, handle)
            else:
                answer = await handle(request)
            if "location" in answer.headers:
                prefix_location(request, answer)
            if request.method == "GET":
                # Caches ask each time, so the check runs each time. Some would guess a lifetime.
                answer.headers.setdefault("Cache-Control", "no-cache")
            if answer.status_code == 204:
                del answer.headers["Content-Type"]  # there is no content
            if tagged and not isinstance(answer, STREAMS):
                return tag_answer(request, answer)
            return answer

        return handle_resource


def prefix_location(request: Request, answer: Response) -> None:
    """Prefixes a `Location` such as `/books/1` with ROOT_PATH.

    It remains a relative reference (RFC 3986, section 4.2), so the caller's `Host` has no influence.
    """
    if answer.headers["location"].startswith("/"):
        answer.headers["location"] = request.scope["root_path"] + answer.headers["location"]


def query_parameters(dependant: Dependant) -> dict[str, FieldInfo]:
    """The query parameters of a route and of its dependencies, by name."""
    fields: dict[str, FieldInfo] = {}
    for field in dependant.query_params:
        declared = getattr(
            field.field_info.annotation, "model_fields", {field.alias: field.field_info}
        )
        for name, one in declared.items():
            fields[str(one.validation_alias or one.alias or name)] = one
    for dependency in dependant.dependencies:
        fields |= query_parameters(dependency)
    return fields


def check_parameters(request: Request, known: dict[str, FieldInfo]) -> None:
    """Raises 422 for parameters that would be ignored: unknown ones, and all but one of a repeated one."""
    errors = []
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            message = f"there is no such parameter; this operation has {', '.join(known) or 'none'}"
            errors.append({"loc": ("query", name), "msg": message, "type": "extra_forbidden"})
        elif times > 1 and get_origin(known[name].annotation) is not list:
            message = "give this only once"
            errors.append({"loc": ("query", name), "msg": message, "type": "repeated"})
    if errors:
        raise RequestValidationError(errors)


def check_body(request: Request) -> None:
    """Raises 415 for a body that is not declared as JSON, such as that of `curl -d`, or is encoded."""
    headers = request.headers
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    empty = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
    if not empty and kind not in JSON_TYPES:
        raise HTTPException(415, "Send the header Content-Type: application/json.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        plain = {"Accept-Encoding": "identity"}  # RFC 9110, section 12.5.3
        raise HTTPException(415, "Send the body without a Content-Encoding.", plain)


class Reply:
    """Fetches pages of lists, and sets the headers that belong to them."""

    def __init__(self, request: Request, response: Response) -> None:
        self.request = request
        self.response = response

    async def page(
        self,
        session: AsyncSession,
        query: Select[Any],
        filters: Filter,
        parent: tuple[type[SQLModel], object] | None = None,
    ) -> Sequence[Any]:
        """Fetches a page of the query, and sets `Link` if another page follows (RFC 8288).

        With `Prefer: count=exact` (RFC 7240) it also sets `X-Total-Count`, from the same moment as the
        page. `parent`, such as `(Shelf, shelf_id)`, must exist: else an empty page raises 404.
        """
        statements = filters.in_order(query)
        counted = self.wants_count()
        if counted or len(statements) > 1:
            await take_snapshot(session)
        rows: list[Any] = []
        for statement in statements:
            if (
                missing := filters.size + 1 - len(rows)
            ) > 0:  # one more, to see whether a page follows
                rows += (await session.exec(statement.limit(missing))).all()
        if not rows and parent is not None:
            await session.get_one(*parent)
            # It only decides between an empty list and 404, so it need not see the same moment.
            session.info["record"].statements -= 1
        if counted:
            count = query.with_only_columns(func.count(), maintain_column_froms=True)
            self.response.headers["X-Total-Count"] = str(await session.scalar(count))
            self.response.headers["Preference-Applied"] = "count=exact"
        if len(rows) > filters.size:
            rows = rows[: filters.size]
            self.link(filters.next_page(rows[-1]))
        return filters.as_shown(rows)

    def wants_count(self) -> bool:
        prefer = ",".join(self.request.headers.getlist("prefer"))
        return bool(prefer) and "count=exact" in re.split("[ ,;]+", prefer)

    def link(self, further: tuple[str, object]) -> None:
        asked = self.request.query_params.multi_items()
        parameters = [pair for pair in asked if pair[0] not in PLACES] + [further]
        path = self.request.scope["raw_path"].decode("ascii")
        self.response.headers["Link"] = f'<{path}?{urlencode(parameters)}>; rel="next"'


async def get_reply(request: Request, response: Response) -> Reply:
    return Reply(request, response)


ReplyDep = Annotated[Reply, Depends(get_reply)]
