"""What the routes of every resource do the same way: access, entity tags, keys, and saying so."""

import re
from collections.abc import Callable, Coroutine, Sequence
from hashlib import blake2b
from typing import Annotated, Any, TypeVar, get_origin
from urllib.parse import urlencode

from fastapi import Depends, HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from nutshell.access import SECURITY_SCHEMES, check_access
from nutshell.errors import documented
from nutshell.idempotency import run_once
from nutshell.paging import Page

Row = TypeVar("Row")


def header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    """A header of a request, as the OpenAPI document has it."""
    schema = {"type": "string"} | schema
    return {"name": name, "in": "header", "description": description, "schema": schema}


# By method. The route reads these headers itself: to declare them to FastAPI costs every call.
HEADERS = {
    "GET": header("If-None-Match", "304 when the row still has this `ETag`"),
    "POST": header(
        "Idempotency-Key",
        "any text of your own: a repeat with it returns the first answer",
        format="idempotency-key",
    ),
    "PATCH": header("If-Match", "change the row only while it has this `ETag`, else 412"),
    "DELETE": header("If-Match", "delete the row only while it has this `ETag`, else 412"),
}
ERRORS = {"GET": (), "POST": (400, 409), "PATCH": (400, 409, 412), "DELETE": (409, 412)}
EVERY_ERROR = (401, 403, 413, 422, 500, 503)


class ResourceRoute(APIRoute):
    """Checks who calls, runs a POST with an `Idempotency-Key` once, tags the answer with a row.

    It documents all that too, from its method and path. An answer is "with a single row" when its
    response model is a schema, and not a list of one.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        # "/shelves/{shelf_id}/books" is about books, and so is "/books/batch".
        options["tags"] = options.get("tags") or re.findall(r"(?:^|\})/(\w+)", path)[-1:]
        super().__init__(path, endpoint, **options)
        (method,) = options["methods"]
        responses: dict[int | str, Any] = documented(*EVERY_ERROR, *ERRORS[method])
        if "{" in path:
            responses |= documented(404)
        if self.single:
            tag = {"schema": {"type": "string"}, "description": "for `If-Match`"}
            responses[self.status_code or 200] = {"headers": {"ETag": tag}}
            if method == "GET":
                responses[304] = {"description": "Not Modified"}
        self.responses = responses | self.responses
        extra: dict[str, Any] = {"security": [{name: []} for name in SECURITY_SCHEMES]}
        if self.single or method != "GET":
            extra["parameters"] = [HEADERS[method]]
        self.openapi_extra = extra | (self.openapi_extra or {})

    @property
    def single(self) -> bool:
        return self.response_model is not None and get_origin(self.response_model) is None

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        single, keyed = self.single, self.methods == {"POST"}

        async def handle_resource(request: Request) -> Response:
            check_access(request)  # before the body is read
            if keyed and "idempotency-key" in request.headers:
                answer = await run_once(request, handle)
            else:
                answer = await handle(request)
            return tag_answer(request, answer) if single else answer

        return handle_resource


def make_tag(body: bytes) -> str:
    """Makes the entity tag of an answer from the answer itself.

    So it changes whenever the answer does, for whatever reason.
    """
    return f'"{blake2b(body, digest_size=12).hexdigest()}"'


def lists_tag(header: str, tag: str) -> bool:
    """Whether a header names this entity tag among others, or is `*`."""
    return header == "*" or tag in [part.strip() for part in header.split(",")]


def tag_answer(request: Request, answer: Response) -> Response:
    """Sets the `ETag`. A GET whose caller has this very answer gets 304 (RFC 9110, 13.1.2)."""
    tag = make_tag(bytes(answer.body))
    known = request.headers.get("if-none-match")
    if known is not None and request.method == "GET" and lists_tag(known.replace("W/", ""), tag):
        return Response(status_code=304, headers={"ETag": tag})
    answer.headers["ETag"] = tag
    return answer


class IfMatch:
    """The caller's `If-Match`, if any: what the row looked like when they last saw it."""

    def __init__(self, header: str | None) -> None:
        self.header = header

    def check(self, shown: type[BaseModel], row: object) -> None:
        """Raises 412 when a GET of the row would no longer show that. Lock the row first.

        `shown` is the schema with which GET answers.
        """
        if self.header is not None:
            answer = shown.model_validate(row, from_attributes=True).model_dump_json()
            if not lists_tag(self.header, make_tag(answer.encode())):
                raise HTTPException(412, "The row has changed since you read it; read it again.")


async def read_if_match(request: Request) -> IfMatch:
    return IfMatch(request.headers.get("if-match"))


IfMatchDep = Annotated[IfMatch, Depends(read_if_match)]


class Reply:
    """The headers of an answer that tell where to go on."""

    def __init__(self, request: Request, response: Response) -> None:
        self.request = request
        self.response = response

    def created(self, path: str) -> None:
        """Sets `Location`, to a path such as `books/1`.

        Without a host (RFC 3986, 4.2): what the caller's `Host` says is not repeated.
        """
        self.response.headers["Location"] = f"{self.request.scope['root_path']}/{path}"

    def page(self, page: Page, rows: Sequence[Row]) -> Sequence[Row]:
        """Takes off the row beyond the page. If there is one, sets `Link` (RFC 8288)."""
        if len(rows) <= page.limit:
            return rows
        rows = rows[: page.limit]
        last: Any = rows[-1]
        last_id = last["id"] if isinstance(last, dict) else last.id
        parameters = {**self.request.query_params, "after": last_id}
        parameters.pop("offset", None)
        path = self.request.scope["raw_path"].decode("ascii")
        self.response.headers["Link"] = f'<{path}?{urlencode(parameters)}>; rel="next"'
        return rows


async def get_reply(request: Request, response: Response) -> Reply:
    return Reply(request, response)


ReplyDep = Annotated[Reply, Depends(get_reply)]
