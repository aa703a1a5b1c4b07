"""The OpenAPI document: descriptions and examples of routes, parameters, errors and headers."""

import re
from typing import Any, get_origin

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from nutshell.conditional import read_conditions
from nutshell.errors import MEDIA_TYPE, PHRASES, Problem
from nutshell.openapi.examples import add_examples
from nutshell.openapi.guide import (
    ACCESS,
    CONDITION,
    FIELDS_OF_PROBLEMS,
    LIVE,
    OVERVIEW,
    PAGING,
    PROBLEMS,
    RETRYING,
    describe_parameters,
)
from nutshell.settings import LIVE_VIEW, settings

# An example.
TAG = '"47c06ab4f0ad4d8c5f1b9c23"'


def describe_header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    schema = {"type": "string"} | schema
    return {"name": name, "in": "header", "description": description, "schema": schema}


# RFC 9110, sections 8.8.3 and 13.1.1.
ENTITY_TAGS = r'^(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$'
# Routes read these headers themselves, because declaring them to FastAPI costs every call.
IF_NONE_MATCH = describe_header(
    "If-None-Match",
    "answers 304, without a body, if the response still has this `ETag`",
    examples=[TAG],
)
IF_MATCH = describe_header(
    "If-Match",
    "answers 412 unless the row still has this `ETag`; `*` is any",
    pattern=ENTITY_TAGS,
    examples=["*", TAG],
)
IDEMPOTENCY_KEY = describe_header(
    "Idempotency-Key",
    "a unique string of 1 to 255 printable ASCII characters, such as a UUID; for 24 hours, a retry with"
    " the same key and body returns the first response",
    format="idempotency-key",
)
COUNT = describe_header(
    "Prefer",
    "`count=exact` requests `X-Total-Count` (RFC 7240)",
    examples=["count=exact"],
)
EVERY_ERROR = (401, 403, 413, 422, 500, 503)


class DocumentedApp(FastAPI):
    """FastAPI, with the components that the routes of the document refer to."""

    security_schemes: dict[str, Any]

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            components = document.setdefault("components", {})
            operations = [o for path in document["paths"].values() for o in path.values()]
            statuses = {s for o in operations for s in o["responses"] if s >= "400"}
            for kind, described in describe_problems(statuses).items():
                components[kind] = components.get(kind, {}) | described
            components["securitySchemes"] = self.security_schemes
            add_tags(document["paths"])
            tags = dict.fromkeys(tag for o in operations for tag in o["tags"])
            document["tags"] = [{"name": tag} for tag in tags]
            document.setdefault("servers", [{"url": settings.root_path or "/"}])
            add_overview(document["info"], self.security_schemes)
            for operation in operations:
                operation.setdefault("security", [{name: []} for name in self.security_schemes])
                add_guide(operation)
            add_examples(operations, components["schemas"])
            for operation in operations:
                describe_parameters(operation, components["schemas"])
            complete_numbers(document)
        return self.openapi_schema or {}


def add_tags(paths: dict[str, Any]) -> None:
    """Tags each operation with its resource: the last part of its path that names one.

    `/shelves/{shelf_id}/books` is about books, but `/books/batch` and `/shelves/{shelf_id}/move` are about
    books and shelves.
    """
    begin = (
        r"(?:^|})/([^/{}]+)"  # what follows another part, as in `/books/batch`, names no resource
    )
    resources = {name for path in paths for name in re.findall(begin + "/{", path)}
    for path, operations in paths.items():
        answers = operations.get("get", {}).get("responses", {})
        if "Link" in answers.get("200", {}).get("headers", {}):
            resources.update(re.findall(begin + "$", path))
    for path, operations in paths.items():
        parts = re.findall(begin, path)
        tag = [part for part in parts if part in resources][-1:] or parts[:1]
        for operation in operations.values():
            operation.setdefault("tags", tag)


# pydantic leaves the bounds of a type with a validator, such as `Whole`, under Python's names.
BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def complete_numbers(part: Any) -> None:
    """Gives integers 64 bits, since clients generated in Go, Java or C# would take 32, and their bounds."""
    if isinstance(part, dict):
        if part.get("type") == "integer":
            part.setdefault("format", "int64")
            for name in BOUNDS.keys() & part.keys():
                bound, tighter = part.pop(name), max if name.startswith("g") else min
                part[BOUNDS[name]] = tighter(bound, part.get(BOUNDS[name], bound))
        part = list(part.values())
    for inner in part if isinstance(part, list) else ():
        complete_numbers(inner)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns the `responses` of a route that answers with these errors."""
    return {s: {"$ref": f"#/components/responses/{s}"} for s in statuses}


def describe_problems(statuses: set[str]) -> dict[str, Any]:
    """Returns the components that `documented` refers to."""
    problem_schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = problem_schema.pop("$defs") | {"Problem": problem_schema}
    for name, fields in FIELDS_OF_PROBLEMS.items():
        for field, text in fields.items():
            schemas[name]["properties"][field]["description"] = text
    responses = {status: describe_problem(status) for status in sorted(statuses)}
    for status, name, text, value in (
        ("401", "WWW-Authenticate", "the scheme of the token", "Bearer"),
        ("409", "Retry-After", "seconds to wait, if a request with this key is in progress", "1"),
        ("503", "Retry-After", "seconds to wait", "1"),
    ):
        if status in responses:
            header = {"description": text, "schema": {"type": "string", "examples": [value]}}
            responses[status]["headers"] = {name: header}
    return {"schemas": schemas, "responses": responses}


def describe_problem(status: str) -> dict[str, Any]:
    title = PHRASES[int(status)]
    text, found = PROBLEMS.get(status, (title, {}))
    content: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/Problem"}}
    examples = {
        name: Problem(title=title, status=int(status), **fields).model_dump(exclude_none=True)
        for name, fields in found.items()
    }
    if len(examples) == 1:  # /docs shows a choice of several
        content["example"] = next(iter(examples.values()))
    elif examples:
        content["examples"] = {name: {"value": value} for name, value in examples.items()}
    return {"description": text, "content": {MEDIA_TYPE: content}}


def add_overview(info: dict[str, Any], security_schemes: dict[str, Any]) -> None:
    """Adds what holds for all operations to the app's own description."""
    bearer = any(scheme.get("scheme") == "bearer" for scheme in security_schemes.values())
    parts = [info.get("description", ""), ACCESS if bearer else "", OVERVIEW]
    parts.append(LIVE if LIVE_VIEW.exists() else "")
    info["description"] = "\n\n".join(part.strip() for part in parts if part)


def add_guide(operation: dict[str, Any]) -> None:
    """Adds how to page, to retry and to avoid overwriting to the description of an operation."""
    guides = {"limit": PAGING, "Idempotency-Key": RETRYING, "If-Match": CONDITION}
    names = {parameter["name"] for parameter in operation.get("parameters", ())}
    parts = [operation.get("description", "")]
    parts += [text for name, text in guides.items() if name in names]
    operation["description"] = "\n\n".join(filter(None, parts))
    for status, response in operation["responses"].items():
        if "$ref" in response:
            # FastAPI adds a description, which would replace that of the component.
            operation["responses"][status] = {"$ref": response["$ref"]}
        elif "Idempotency-Key" in names and status < "300":
            response.setdefault("headers", {})["Idempotency-Replayed"] = {
                "schema": {"type": "string"},
                "description": "`true`, if this is the response to an earlier request with this key",
            }


def is_single(route: APIRoute) -> bool:
    """Whether the route answers with a single row: its response model is not a list."""
    return route.response_model is not None and get_origin(route.response_model) is None


def is_list(route: APIRoute) -> bool:
    return get_origin(route.response_model) is list and route.methods == {"GET"}


def depends_on(dependant: Dependant, call: object) -> bool:
    """Whether a route depends on a function, itself or through another dependency."""
    return dependant.call is call or any(depends_on(one, call) for one in dependant.dependencies)


def describe_route(route: APIRoute) -> None:
    """Documents the behaviour of ResourceRoute, by method, path, response model and dependencies."""
    methods = route.methods or {"GET"}
    errors, parameters = {*EVERY_ERROR}, []
    if "{" in route.path:
        errors.add(404)
    if "GET" not in methods:
        errors.add(409)
    if route.body_field is not None:
        errors |= {400, 415}
    if depends_on(route.dependant, read_conditions):
        errors |= {400, 412}
        parameters.append(IF_MATCH)
    if methods == {"POST"}:
        errors.add(400)
        parameters.append(IDEMPOTENCY_KEY)
    responses = documented(*sorted(errors))
    answered = {}
    if is_single(route) or is_list(route):
        answered["ETag"] = "of this response, for `If-None-Match`"
        if is_single(route):
            answered["ETag"] = "of this row, for `If-Match`; that of a GET also for `If-None-Match`"
    if is_list(route):
        answered |= {
            "Link": 'the URL of the next page, as `rel="next"`, if one follows',
            "X-Total-Count": "rows that the filters match, with `Prefer: count=exact`",
            "Preference-Applied": "`count=exact`, with `Prefer: count=exact`",
        }
    if "GET" in methods and answered:
        responses[304] = {"description": "the response still has this `ETag`"}
        parameters += [IF_NONE_MATCH, *([COUNT] if is_list(route) else [])]
    elif methods == {"POST"} and is_single(route) and route.status_code == 201:
        answered["Location"] = "the path of the row"
    if answered:
        responses[route.status_code or 200] = {
            "headers": {
                name: {"schema": {"type": "string"}, "description": text}
                for name, text in answered.items()
            }
        }
    route.responses = responses | route.responses
    route.openapi_extra = {"parameters": parameters} | (route.openapi_extra or {})
