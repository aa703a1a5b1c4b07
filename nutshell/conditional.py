"""Conditional requests: entity tags, `If-Match`, `If-None-Match`, and compressed answers (RFC 9110)."""

import gzip
import re
from hashlib import blake2b
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel

WORTH_COMPRESSING = 1000  # bytes: a smaller answer fits into one packet as it is
GZIPPED = '-gzip"'  # how the tag of a compressed answer ends
SAID_IN_HEADERS = ("link", "x-total-count")  # what a list says beside its body
STREAMS = (StreamingResponse, FileResponse)  # answers without a body that could be digested

ENTITY_TAG = re.compile(r'(?:W/)?("[^"\s]*")')


def make_tag(answer: bytes) -> str:
    """Makes the entity tag of an answer from the answer itself.

    So it changes whenever the answer does, for whatever reason.
    """
    return f'"{blake2b(answer, digest_size=12).hexdigest()}"'


def tag_answer(request: Request, answer: Response) -> Response:
    """Sets the `ETag`. A GET whose caller has this very answer gets 304 (section 13.1.2)."""
    if answer.status_code >= 300:  # conditions are for what would succeed (section 13.2.1)
        return answer
    headers = answer.headers
    said = [headers[name].encode() for name in SAID_IN_HEADERS if name in headers]
    tag = make_tag(b"\n".join([answer.body, *said]))
    if request.method != "GET":
        headers["ETag"] = tag
        return answer
    compress = len(answer.body) >= WORTH_COMPRESSING and accepts_gzip(request)
    if compress:
        tag = f"{tag[:-1]}{GZIPPED}"  # other bytes have another tag (section 8.8.1)
    headers["ETag"] = tag
    headers.add_vary_header("Accept-Encoding, Prefer")
    headers.setdefault("Cache-Control", "no-cache")  # ask whether it still holds: some would guess
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
    """Whether the caller takes a compressed answer (section 12.5.3)."""
    weights = {}
    for part in request.headers.get("accept-encoding", "").lower().split(","):
        coding, _, weight = part.partition(";")
        weights[coding.strip()] = weight.strip()
    return not re.fullmatch(r"q=0(\.0*)?", weights.get("gzip", weights.get("*", "q=0")))


def matches(given: list[str], tag: str) -> bool:
    """Whether a condition lists this entity tag, or is `*`.

    The comparison is weak (section 8.8.3.2) for `If-Match` too: a proxy that compresses an answer makes
    its tag weak, and ours name what an answer says.
    """
    return "*" in given or tag in ENTITY_TAG.findall(",".join(given))


class IfMatch:
    """The caller's conditions for a change: `If-Match`, and rarely `If-None-Match`."""

    def __init__(self, seen: list[str], unseen: list[str]) -> None:
        self.seen = seen
        self.unseen = unseen

    def check(self, shown: type[BaseModel], row: object) -> None:
        """Raises 412 unless a GET of the row would show what the caller has seen. Lock the row first.

        `shown` is the schema with which GET answers.
        """
        if self.seen or self.unseen:
            answer = shown.model_validate(row, from_attributes=True).model_dump_json(by_alias=True)
            tag = make_tag(answer.encode())
            if self.seen and not matches(self.seen, tag):
                raise HTTPException(412, "The row has changed since you read it; read it again.")
            if self.unseen and matches(self.unseen, tag):
                raise HTTPException(412, "If-None-Match: there is such a row.")


async def read_conditions(request: Request) -> IfMatch:
    """Raises 400 for a malformed condition."""
    return IfMatch(read_tags(request, "If-Match"), read_tags(request, "If-None-Match"))


def read_tags(request: Request, name: str) -> list[str]:
    given = request.headers.getlist(name)
    tags, rest = ENTITY_TAG.findall(",".join(given)), ENTITY_TAG.sub("", ",".join(given))
    if given and given != ["*"] and (not tags or rest.strip(", \t")):
        raise HTTPException(400, f'{name} takes entity tags in their quotes, as in "…", or *.')
    return [value.replace(GZIPPED, '"') for value in given]


IfMatchDep = Annotated[IfMatch, Depends(read_conditions)]
