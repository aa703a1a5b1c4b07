"""The OpenAPI document: descriptions of routes, errors and headers."""

from http import HTTPStatus
from typing import Any, get_origin

from fastapi import FastAPI
from fastapi.routing import APIRoute

from nutshell.access import SECURITY_SCHEMES
from nutshell.errors import MEDIA_TYPE, Problem
from nutshell.settings import settings


def describe_header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    schema = {"type": "string"} | schema
    return {"name": name, "in": "header", "description": description, "schema": schema}


# RFC 9110, sections 8.8.3 and 13.1.1.
ENTITY_TAGS = r'^(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$'
# By method. Routes read these headers themselves, because declaring them to FastAPI costs every call.
HEADERS = {
    "GET": describe_header("If-None-Match", "answers 304 if the row still has this `ETag`"),
    "POST": describe_header(
        "Idempotency-Key",
        "any unique string; a retry with the same key returns the first response",
        format="idempotency-key",
    ),
    "PATCH": describe_header(
        "If-Match",
        "changes the row only if it still has this `ETag`, else 412",
        pattern=ENTITY_TAGS,
    ),
    "DELETE": describe_header(
        "If-Match",
        "deletes the row only if it still has this `ETag`, else 412",
        pattern=ENTITY_TAGS,
    ),
}
COUNT = describe_header("Prefer", "`count=exact` requests `X-Total-Count` (RFC 7240)")
ERRORS = {
    "GET": (),
    "POST": (400, 409, 415),
    "PATCH": (400, 409, 412, 415),
    "DELETE": (400, 409, 412),
}
EVERY_ERROR = (401, 403, 413, 422, 500, 503)


class DocumentedApp(FastAPI):
    """FastAPI, with the components that the routes of the document refer to."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            components = document.setdefault("components", {})
            operations = [o for path in document["paths"].values() for o in path.values()]
            statuses = {s for o in operations for s in o["responses"] if s >= "400"}
            for kind, described in describe_problems(statuses).items():
                components[kind] = components.get(kind, {}) | described
            components["securitySchemes"] = SECURITY_SCHEMES
            tags = dict.fromkeys(tag for o in operations for tag in o["tags"])
            document["tags"] = [{"name": tag} for tag in tags]
            document.setdefault("servers", [{"url": settings.root_path or "/"}])
            for operation in operations:
                add_examples(operation, components["schemas"])
            widen_integers(document)
        return self.openapi_schema or {}


def widen_integers(part: Any) -> None:
    """Gives the schemas of integers 64 bits. Clients generated in Go, Java or C# would take 32."""
    if isinstance(part, dict):
        if part.get("type") == "integer":
            part.setdefault("format", "int64")
        part = list(part.values())
    for inner in part if isinstance(part, list) else ():
        widen_integers(inner)


def add_examples(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Copies the examples of the schemas to where clients such as Postman look for them."""
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path" and parameter["schema"].get("type") == "integer":
            parameter.setdefault("example", 1)
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        several = content["schema"].get("type") == "array"
        reference = (content["schema"]["items"] if several else content["schema"]).get("$ref", "")
        schema = schemas.get(reference.rpartition("/")[2], {})
        fields = schema.get("properties", {}).items()
        body = {name: field["examples"][0] for name, field in fields if "examples" in field}
        body = schema.get("examples", [body])[0]
        content.setdefault("example", [body] if several else body)


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


def describe_route(route: APIRoute) -> None:
    """Documents the behaviour of ResourceRoute, by method, path and response model."""
    (method,) = route.methods or {"GET"}
    responses = documented(*EVERY_ERROR, *ERRORS[method])
    if "{" in route.path:
        responses |= documented(404)
    answered = {}
    if is_single(route) or is_list(route):
        answered["ETag"] = "of this response, for `If-Match` and `If-None-Match`"
    if is_list(route):
        answered |= {
            "Link": 'the URL of the next page, as `rel="next"`, if one follows',
            "X-Total-Count": "rows in all pages, with `Prefer: count=exact`",
            "Preference-Applied": "`count=exact`, with `Prefer: count=exact`",
        }
    if method == "GET" and answered:
        responses[304] = {"description": "the response still has this `ETag`"}
    elif method == "POST" and is_single(route):
        answered["Location"] = "the path of the row"
    if answered:
        responses[route.status_code or 200] = {
            "headers": {
                name: {"schema": {"type": "string"}, "description": text}
                for name, text in answered.items()
            }
        }
    route.responses = responses | route.responses
    extra: dict[str, Any] = {"security": [{name: []} for name in SECURITY_SCHEMES]}
    if method != "GET" or answered:
        extra["parameters"] = [HEADERS[method], *([COUNT] if is_list(route) else [])]
    route.openapi_extra = extra | (route.openapi_extra or {})
