"""The OpenAPI document: descriptions of routes, errors and headers."""

import re
from http import HTTPStatus
from typing import Any, get_origin

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from nutshell.conditional import read_conditions
from nutshell.errors import MEDIA_TYPE, Problem
from nutshell.settings import settings


def describe_header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    schema = {"type": "string"} | schema
    return {"name": name, "in": "header", "description": description, "schema": schema}


# RFC 9110, sections 8.8.3 and 13.1.1.
ENTITY_TAGS = r'^(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$'
# Routes read these headers themselves, because declaring them to FastAPI costs every call.
IF_NONE_MATCH = describe_header("If-None-Match", "answers 304 if the row still has this `ETag`")
IF_MATCH = describe_header(
    "If-Match", "answers 412 unless the row still has this `ETag`", pattern=ENTITY_TAGS
)
IDEMPOTENCY_KEY = describe_header(
    "Idempotency-Key",
    "any unique string; a retry with the same key returns the first response",
    format="idempotency-key",
)
MAX_DEPTH = 5  # of an example: a schema may contain itself
COUNT = describe_header("Prefer", "`count=exact` requests `X-Total-Count` (RFC 7240)")
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
            for operation in operations:
                operation.setdefault("security", [{name: []} for name in self.security_schemes])
                add_examples(operation, components["schemas"])
            widen_integers(document)
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


def widen_integers(part: Any) -> None:
    """Gives the schemas of integers 64 bits. Clients generated in Go, Java or C# would take 32."""
    if isinstance(part, dict):
        if part.get("type") == "integer":
            part.setdefault("format", "int64")
        part = list(part.values())
    for inner in part if isinstance(part, list) else ():
        widen_integers(inner)


def add_examples(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Puts the examples of the schemas where clients such as Postman look for them."""
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path" and parameter["schema"].get("type") == "integer":
            parameter.setdefault("example", 1)
    for content in operation.get("requestBody", {}).get("content", {}).values():
        content.setdefault("example", find_example(content["schema"], schemas))


def find_example(schema: dict[str, Any], schemas: dict[str, Any], depth: int = 0) -> Any:
    """The example of a schema, or one made of those of its parts. Required fields are in it anyway."""
    schema = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
    for known in ("examples", "enum"):
        if known in schema:
            return schema[known][0]
    if "const" in schema or "default" in schema:
        return schema.get("const", schema.get("default"))
    if alternatives := schema.get("anyOf", schema.get("oneOf", schema.get("allOf"))):
        return find_example(alternatives[0], schemas, depth)
    match schema.get("type"):
        case "object":
            required = schema.get("required", ())
            fields = schema.get("properties", {}).items()
            used = [(n, f) for n, f in fields if n in required or "examples" in f]
            return {name: find_example(field, schemas, depth + 1) for name, field in used}
        case "array" if depth < MAX_DEPTH:
            return [find_example(schema["items"], schemas, depth + 1)] if "items" in schema else []
        case "array":
            return []
        case "integer" | "number":
            return max(1, schema.get("minimum", 1))
        case "boolean":
            return False
    texts = {"uuid": "0190a5f4-7c1e-7000-8000-0123456789ab", "date": "2030-01-31"}
    texts |= {"date-time": "2030-01-31T12:00:00Z"}
    return texts.get(schema.get("format", ""), "a" * schema.get("minLength", 1))


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns the `responses` of a route that answers with these errors."""
    return {s: {"$ref": f"#/components/responses/{s}"} for s in statuses}


def describe_problems(statuses: set[str]) -> dict[str, Any]:
    """Returns the components that `documented` refers to."""
    problem_schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = problem_schema.pop("$defs") | {"Problem": problem_schema}
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    responses: dict[str, dict[str, Any]] = {
        status: {"description": HTTPStatus(int(status)).phrase, "content": content}
        for status in sorted(statuses)
    }
    for status, name in (("401", "WWW-Authenticate"), ("503", "Retry-After")):
        if status in responses:
            responses[status]["headers"] = {name: {"schema": {"type": "string"}}}
    return {"schemas": schemas, "responses": responses}


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
        answered["ETag"] = "of this response, for `If-Match` and `If-None-Match`"
    if is_list(route):
        answered |= {
            "Link": 'the URL of the next page, as `rel="next"`, if one follows',
            "X-Total-Count": "rows in all pages, with `Prefer: count=exact`",
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
