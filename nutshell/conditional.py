"""Conditional requests and compressed responses (RFC 9110)."""

import gzip
import re
from hashlib import blake2b
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel

WORTH_COMPRESSING = 1000  # bytes; a smaller response fits into one packet
GZIPPED = '-gzip"'  # the end of a compressed response's tag
SAID_IN_HEADERS = ("link", "x-total-count")  # the parts of a list that are not in its body
STREAMS = (StreamingResponse, FileResponse)  # their bodies cannot be digested

ENTITY_TAG = re.compile(r'(?:W/)?("[^"\s]*")')


def make_tag(answer: bytes) -> str:
    """Returns the entity tag of a response: a digest, which changes whenever the response does."""
    return f'"{blake2b(answer, digest_size=12).hexdigest()}"'


def tag_answer(request: Request, answer: Response) -> Response:
    """Sets the `ETag`. Answers a GET with 304 if the caller already has this response (section 13.1.2)."""
    if answer.status_code >= 300:  # conditions apply to successful responses (section 13.2.1)
        return answer
    headers = answer.headers
    said = [headers[name].encode() for name in SAID_IN_HEADERS if name in headers]
    tag = make_tag(b"\n".join([answer.body, *said]))
    if request.method != "GET":
        headers["ETag"] = tag
        return answer
    compress = len(answer.body) >= WORTH_COMPRESSING and accepts_gzip(request)
    if compress:
        tag = f"{tag[:-1]}{GZIPPED}"  # different bytes need a different tag (section 8.8.1)
    headers["ETag"] = tag
    headers.add_vary_header("Accept-Encoding, Prefer")
    known = request.headers.getlist("if-none-match")
    if known and matches(known, tag):
        kept = {name: headers[name] for name in ("ETag", "Vary", "Cache-Control")}
        return Response(status_code=304, headers=kept, background=answer.background)
    if compress:
        answer.body = gzip.compress(answer.body, compresslevel=1)
        headers["Content-Encoding"] = "gzip"
        headers["Content-Length"] = str(len(answer.body))
    return answer


def accepts_gzip(request: Request) -> bool:
    """Whether the caller accepts gzip (section 12.5.3)."""
    weights = {}
    for part in request.headers.get("accept-encoding", "").lower().split(","):
        coding, _, weight = part.partition(";")
        weights[coding.strip()] = weight.strip()
    return not re.fullmatch(r"q=0(\.0*)?", weights.get("gzip", weights.get("*", "q=0")))


def matches(given: list[str], tag: str) -> bool:
    """Whether a condition contains this entity tag, or is `*`.

    The comparison is weak (section 8.8.3.2) for `If-Match` too, because proxies that compress a response
    make its tag weak. A weak tag still contains our digest.
    """
    return "*" in given or tag in ENTITY_TAG.findall(",".join(given))


class IfMatch:
    """The caller's conditions for a change: `If-Match`, and rarely `If-None-Match`."""

    def __init__(self, seen: list[str], unseen: list[str]) -> None:
        self.seen = seen
        self.unseen = unseen

    def check(self, shown: type[BaseModel], row: object) -> None:
        """Raises 412 unless the caller has seen the row as it is now. Lock the row first.

        `shown` is the response model of the row's GET route.
        """
        if self.seen or self.unseen:
            answer = shown.model_validate(row, from_attributes=True).model_dump_json(by_alias=True)
            tag = make_tag(answer.encode())
            if self.seen and not matches(self.seen, tag):
                raise HTTPException(412, "The row has changed since you read it; read it again.")
            if self.unseen and matches(self.unseen, tag):
                raise HTTPException(412, "If-None-Match: the row exists.")


async def read_conditions(request: Request) -> IfMatch:
    """Raises 400 for a malformed condition."""
    return IfMatch(read_tags(request, "If-Match"), read_tags(request, "If-None-Match"))


def read_tags(request: Request, name: str) -> list[str]:
    given = request.headers.getlist(name)
    tags, rest = ENTITY_TAG.findall(",".join(given)), ENTITY_TAG.sub("", ",".join(given))
    if given and given != ["*"] and (not tags or rest.strip(", \t")):
        raise HTTPException(400, f'{name} must contain quoted entity tags, as in "…", or be *.')
    return [value.replace(GZIPPED, '"') for value in given]


IfMatchDep = Annotated[IfMatch, Depends(read_conditions)]
