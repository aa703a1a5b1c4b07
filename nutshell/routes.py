"""Behaviour shared by all resource routes: access, entity tags, keys, references, pages."""

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

from nutshell.access import check_access
from nutshell.conditional import STREAMS, tag_answer
from nutshell.database import take_snapshot
from nutshell.idempotency import run_once
from nutshell.openapi import describe_route, is_list, is_single
from nutshell.paging import Page

# A merge patch (RFC 7396) is what our PATCH takes anyway. Other types, such as a JSON Patch, mean something else.
JSON_TYPES = ("application/json", "application/merge-patch+json")


# Parameters that say where in its list a page begins.
PLACES = ("after", "cursor", "offset")


class ResourceRoute(APIRoute):
    """Checks who calls, runs a POST with an `Idempotency-Key` once, tags its answer, documents all that."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        # "/shelves/{shelf_id}/books" is about books, and so is "/books/batch".
        options["tags"] = options.get("tags") or re.findall(r"(?:^|\})/(\w+)", path)[-1:]
        super().__init__(path, endpoint, **options)
        describe_route(self)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        tagged, keyed = is_single(self) or is_list(self), self.methods == {"POST"}
        with_json = self.body_field is not None and not isinstance(self.body_field.field_info, Form)
        repeatable = list_parameters(self.dependant)

        async def handle_resource(request: Request) -> Response:
            check_access(request)  # before the body is read
            if request.scope["query_string"]:
                check_repetition(request, repeatable)
            if with_json:
                check_body(request)
            if keyed and "idempotency-key" in request.headers:
                answer = await run_once(request, handle)
            else:
                answer = await handle(request)
            if "location" in answer.headers:
                prefix_location(request, answer)
            if tagged and not isinstance(answer, STREAMS):
                return tag_answer(request, answer)
            return answer

        return handle_resource


def prefix_location(request: Request, answer: Response) -> None:
    """Puts the path below which the service is mounted before a `Location` such as `/books/1`.

    It names no host (RFC 3986, section 4.2): what the caller's `Host` says is not repeated.
    """
    if answer.headers["location"].startswith("/"):
        answer.headers["location"] = request.scope["root_path"] + answer.headers["location"]


def list_parameters(dependant: Dependant) -> set[str]:
    """The parameters of a query that may be given several times."""
    fields: dict[str, FieldInfo] = {}
    for one in (dependant, *dependant.dependencies):
        for field in one.query_params:
            fields |= getattr(
                field.field_info.annotation, "model_fields", {field.alias: field.field_info}
            )
    return {name for name, field in fields.items() if get_origin(field.annotation) is list}


def check_repetition(request: Request, repeatable: set[str]) -> None:
    """Raises 422 for a parameter that is given twice, of which one value would be ignored."""
    names = Counter(name for name, _ in request.query_params.multi_items())
    errors = [
        {"loc": ("query", name), "msg": "give this once", "type": "repeated"}
        for name, times in names.items()
        if times > 1 and name not in repeatable
    ]
    if errors:
        raise RequestValidationError(errors)


def check_body(request: Request) -> None:
    """Raises 415 for a body that is not declared to be JSON, as curl's `-d` sends it, or is encoded."""
    headers = request.headers
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    empty = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
    if not empty and kind not in JSON_TYPES:
        raise HTTPException(415, "Send the header Content-Type: application/json.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        plain = {"Accept-Encoding": "identity"}  # RFC 9110, section 12.5.3
        raise HTTPException(415, "Send the body as it is, without a Content-Encoding.", plain)


class Reply:
    """The headers of an answer that tell where to go on."""

    def __init__(self, request: Request, response: Response) -> None:
        self.request = request
        self.response = response

    async def page(
        self,
        session: AsyncSession,
        query: Select[Any],
        filters: Page,
        parent: tuple[type[SQLModel], int] | None = None,
    ) -> Sequence[Any]:
        """Fetches the page that `filters.select` has begun. Sets `Link` if there is a further one (RFC 8288).

        For callers who sent `Prefer: count=exact` (RFC 7240), it also sets `X-Total-Count`, from the same
        moment as the page. With a `parent`, such as `(Shelf, shelf_id)`, an empty page is a 404 if there is
        no such parent.
        """
        statements = filters.in_order(query)
        counted = self.wants_count()
        if counted or len(statements) > 1:
            await take_snapshot(session)
        rows: list[Any] = []
        for statement in statements:
            if (missing := filters.size + 1 - len(rows)) > 0:  # one more than the page has
                rows += (await session.exec(statement.limit(missing))).all()
        if not rows and parent is not None:
            await session.get_one(*parent)
            # It has only told an empty list from a 404, so it need not see the same moment.
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
