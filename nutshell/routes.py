"""What the routes of every resource do the same way: access, entity tags, keys, and saying so."""

import gzip
import re
from collections.abc import Callable, Coroutine, Sequence
from hashlib import blake2b
from typing import Annotated, Any, TypeVar, get_origin
from urllib.parse import urlencode

from fastapi import Depends, HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sqlalchemy import Select, func
from sqlalchemy.ext.asyncio import AsyncSession

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
COUNT = header("Prefer", "`count=exact` asks for `X-Total-Count` (RFC 7240); not with `after`")
ERRORS = {"GET": (), "POST": (400, 409, 415), "PATCH": (400, 409, 412, 415), "DELETE": (409, 412)}
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
        answered = (
            {"ETag": "of this answer, for `If-Match` and `If-None-Match`"}
            if self.single or self.listing
            else {}
        )
        if self.listing:
            answered |= {
                "Link": 'the URL of the next page, with `rel="next"`, if there is one',
                "X-Total-Count": "rows in all pages, if `Prefer: count=exact` was sent",
                "Preference-Applied": "`count=exact`, if it was sent",
            }
        if method == "GET" and answered:
            responses[304] = {"description": "the answer is still the one with this `ETag`"}
        elif method == "POST" and self.single:
            answered["Location"] = "the path of the row"
        headers = {
            name: {"schema": {"type": "string"}, "description": text}
            for name, text in answered.items()
        }
        if headers:
            responses[self.status_code or 200] = {"headers": headers}
        self.responses = responses | self.responses
        extra: dict[str, Any] = {"security": [{name: []} for name in SECURITY_SCHEMES]}
        if method != "GET" or answered:
            extra["parameters"] = [HEADERS[method], *([COUNT] if self.listing else [])]
        self.openapi_extra = extra | (self.openapi_extra or {})

    @property
    def single(self) -> bool:
        return self.response_model is not None and get_origin(self.response_model) is None

    @property
    def listing(self) -> bool:
        return get_origin(self.response_model) is list and self.methods == {"GET"}

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        tagged, keyed, with_body = (
            self.single or self.listing,
            self.methods == {"POST"},
            bool(self.body_field),
        )

        async def handle_resource(request: Request) -> Response:
            check_access(request)  # before the body is read
            if with_body:
                check_content_type(request)
            if keyed and "idempotency-key" in request.headers:
                answer = await run_once(request, handle)
            else:
                answer = await handle(request)
            return tag_answer(request, answer) if tagged else answer

        return handle_resource


def check_content_type(request: Request) -> None:
    """Raises 415 for a body that is not declared to be JSON, as curl's `-d` sends it."""
    headers = request.headers
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    empty = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
    if not empty and kind != "application/json" and not kind.endswith("+json"):
        raise HTTPException(415, "Send the header Content-Type: application/json.")


def make_tag(body: bytes) -> str:
    """Makes the entity tag of an answer from the answer itself.

    So it changes whenever the answer does, for whatever reason.
    """
    return f'"{blake2b(body, digest_size=12).hexdigest()}"'


def lists_tag(header: str, tag: str) -> bool:
    """Whether a header names this entity tag among others, or is `*`."""
    return header == "*" or tag in [part.strip() for part in header.split(",")]


def accepts_gzip(request: Request) -> bool:
    """Whether the caller takes a compressed answer (RFC 9110, 12.5.3)."""
    weights = {}
    for part in request.headers.get("accept-encoding", "").lower().split(","):
        coding, _, weight = part.partition(";")
        weights[coding.strip()] = weight.strip()
    return not re.fullmatch(r"q=0(\.0*)?", weights.get("gzip", weights.get("*", "q=0")))


def tag_answer(request: Request, answer: Response) -> Response:
    """Sets the `ETag`. A GET whose caller has this very answer gets 304 (RFC 9110, 13.1.2)."""
    tag = make_tag(bytes(answer.body))
    if request.method != "GET":
        answer.headers["ETag"] = tag
        return answer
    headers = dict(REVALIDATE)
    if len(answer.body) >= WORTH_COMPRESSING:
        headers["Vary"] = "Accept-Encoding"
        if accepts_gzip(request):
            tag = f"{tag[:-1]}{GZIPPED}"  # other bytes have another tag (RFC 9110, 8.8.1)
    headers["ETag"] = tag
    known = request.headers.get("if-none-match")
    if known is not None and lists_tag(known.replace("W/", ""), tag):
        return Response(status_code=304, headers=headers)
    if tag.endswith(GZIPPED):
        answer.body = gzip.compress(answer.body, compresslevel=1)
        headers |= {"Content-Encoding": "gzip", "Content-Length": str(len(answer.body))}
    answer.headers.update(headers)
    return answer


# Caches may keep an answer, but must ask whether it still holds. Some guess otherwise.
REVALIDATE = {"Cache-Control": "no-cache"}
WORTH_COMPRESSING = 1000  # bytes: a smaller answer fits into one packet as it is
GZIPPED = '-gzip"'  # how the tag of a compressed answer ends


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
            if not lists_tag(self.header.replace(GZIPPED, '"'), make_tag(answer.encode())):
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
        if len(rows) <= page.size:
            return rows
        rows = rows[: page.size]
        last: Any = rows[-1]
        if page.sort == "id":
            further = ("after", last["id"] if isinstance(last, dict) else last.id)
        else:
            further = ("offset", page.offset + page.size)
        asked = self.request.query_params.multi_items()
        parameters = [pair for pair in asked if pair[0] not in ("after", "offset")] + [further]
        path = self.request.scope["raw_path"].decode("ascii")
        self.response.headers["Link"] = f'<{path}?{urlencode(parameters)}>; rel="next"'
        return rows

    async def count(self, page: Page, query: Select[Any], session: AsyncSession) -> None:
        """Sets `X-Total-Count` for callers who prefer to know how many rows all pages have."""
        prefer = self.request.headers.get("prefer")
        if prefer is None or "count=exact" not in re.split("[ ,;]+", prefer) or page.after:
            return
        counted = query.with_only_columns(func.count(), maintain_column_froms=True)
        total = await session.scalar(counted.order_by(None).offset(None).limit(None))
        self.response.headers["X-Total-Count"] = str(total)
        self.response.headers["Preference-Applied"] = "count=exact"


async def get_reply(request: Request, response: Response) -> Reply:
    return Reply(request, response)


ReplyDep = Annotated[Reply, Depends(get_reply)]
