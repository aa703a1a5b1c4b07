"""The OpenAPI document: descriptions and examples of routes, parameters, errors and headers."""

from collections import defaultdict
from http import HTTPStatus
from typing import Any, get_origin

from fastapi import FastAPI
from fastapi.routing import APIRoute

from nutshell.access import SECURITY_SCHEMES
from nutshell.errors import MEDIA_TYPE, MESSAGES, InputError, Problem
from nutshell.settings import LIVE_VIEW, settings

OVERVIEW = """
### Calls
Send `Authorization: Bearer <token>` with each call; on this page, click *Authorize*. Only `/healthz`, `/readyz` and the
documentation need no token.

Bodies are JSON, and need `Content-Type: application/json`. An unknown field or query parameter is an error, and so is
a parameter given twice, except `id`. Paths have no trailing slash. A date with a time needs an offset, as in
`2030-01-31T12:00:00Z`; in a URL, write `+` as `%2B`. `HEAD` works wherever `GET` does.

Each response has an `X-Request-ID`, which is also in the service's log. You may send one of your own.

### Lists
A list is a JSON array of at most `limit` rows. If more rows follow, the response has a `Link` header with the URL of
the next page: `</path?after=50>; rel="next"`. The URL is relative: resolve it against the URL of the request. Without
headers, set `after` to the `id` of the last row, and stop at a page with fewer rows than `limit`.

`sort` and `order` change the order; follow the `Link` then, or use `offset`. `Prefer: count=exact` requests the number
of rows in all pages, as `X-Total-Count`. Filters can be combined. `…_before` and `…_after` exclude the value itself.

### Changes
`PATCH` changes only the fields that it contains. It may repeat `readOnly` fields, unchanged.

Each response with a row has an `ETag`, which changes whenever the row does. Send it, with its quotes, as `If-Match`
with `PATCH` or `DELETE`: if somebody else has changed the row since, nothing is overwritten, and the answer is 412. Then
read the row again. Without `If-Match` the last change wins. With `GET`, send the tag as `If-None-Match`: the answer is
304, without a body, if nothing has changed.

### Retries
A `POST` with an `Idempotency-Key`, a unique string of your choice such as a UUID, is executed once, however often you
send it. For 24 hours, a repetition with the same key and the same body returns the first response, marked by
`Idempotency-Replayed: true`. So after a timeout, or a 503, repeat the request with the same key. Use a new key for each
new request.

### Errors
Every error is a problem document (RFC 9457) of the type `application/problem+json`. `detail` is for people. In `errors`,
each `loc` says where the input is wrong, and `type` is for programs.
"""
LIVE = """
### Live view
`/trace` shows each request as it happens, with its session, transaction and SQL statements, if the service runs with
`TRACE=1`, as with `make run`.
"""
TAG = '"47c06ab4f0ad4d8c5f1b9c23"'
# What the descriptions of operations end with. Agents often see these, but neither the overview nor headers.
PAGING = (
    "Returns one page. For the next page, repeat the call with `after` set to the `id` of the last row. A page"
    " with fewer rows than `limit` is the last one. If you `sort` by another column than `id`, use `offset`"
    " instead, or follow the `Link` header."
)
RETRYING = (
    "To make retries safe, choose a new, unique `Idempotency-Key` for each new request. After a timeout or a"
    " 503, repeat the request with the same key and body: it is executed only once, and the retry returns the"
    " first response, with the header `Idempotency-Replayed: true`."
)
CONDITION = (
    "To act only on the row as you have seen it, send its `ETag` header as `If-Match`: 412 means that somebody"
    " has changed it since. If you cannot see headers, leave `If-Match` out: then the last change wins."
)


def describe_header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    schema = {"type": "string"} | schema
    return {"name": name, "in": "header", "description": description, "schema": schema}


# RFC 9110, sections 8.8.3 and 13.1.1.
ENTITY_TAGS = r'^(\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*)$'
# By method. Routes read these headers themselves, because declaring them to FastAPI costs every call.
HEADERS = {
    "GET": describe_header(
        "If-None-Match",
        "answers 304, without a body, if the response still has this `ETag`",
        examples=[TAG],
    ),
    "POST": describe_header(
        "Idempotency-Key",
        "a unique string of 1 to 255 printable ASCII characters, such as a UUID; for 24 hours, a retry with"
        " the same key and body returns the first response",
        format="idempotency-key",
    ),
    "PATCH": describe_header(
        "If-Match",
        "changes the row only if it still has this `ETag`, else 412; `*` is any",
        pattern=ENTITY_TAGS,
        examples=["*", TAG],
    ),
    "DELETE": describe_header(
        "If-Match",
        "deletes the row only if it still has this `ETag`, else 412; `*` is any",
        pattern=ENTITY_TAGS,
        examples=["*", TAG],
    ),
}
COUNT = describe_header(
    "Prefer",
    "`count=exact` requests `X-Total-Count` (RFC 7240)",
    examples=["count=exact"],
)
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
            add_overview(document["info"])
            for operation in operations:
                add_guide(operation)
                add_examples(operation, components["schemas"])
            add_examples_of_responses(operations, components["schemas"])
            for operation in operations:
                describe_parameters(operation, components["schemas"])
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


def find_schema(content: dict[str, Any]) -> tuple[str, bool]:
    """Returns the name of the schema of a JSON body, and whether the body is a list of such."""
    schema = content.get("application/json", {}).get("schema", {})
    several = schema.get("type") == "array"
    reference = (schema.get("items", {}) if several else schema).get("$ref", "")
    return reference.rpartition("/")[2], several


def find_answer(operation: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of the operation's successful response, which may be empty."""
    for status, response in operation["responses"].items():
        if status < "300" and "content" in response:
            return response["content"]  # type: ignore[no-any-return]
    return {}


def add_examples(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Copies the examples of the schemas to where clients such as Postman look for them."""
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path" and parameter["schema"].get("type") == "integer":
            parameter.setdefault("example", 1)
    content = operation.get("requestBody", {}).get("content", {})
    name, several = find_schema(content)
    if name:
        schema = schemas.get(name, {})
        fields = schema.get("properties", {}).items()
        body = {name: field["examples"][0] for name, field in fields if "examples" in field}
        body = schema.get("examples", [body])[0]
        content["application/json"].setdefault("example", [body] if several else body)


def add_examples_of_responses(operations: list[Any], schemas: dict[str, Any]) -> None:
    """Gives each response an example. Its values are those with which such rows are created."""
    created: dict[str, dict[str, Any]] = defaultdict(dict)  # by tag
    shown: dict[str, dict[str, Any]] = {}  # by schema
    for operation in operations:
        fields = created[operation["tags"][0]]
        name, _ = find_schema(operation.get("requestBody", {}).get("content", {}))
        for field, schema in schemas.get(name, {}).get("properties", {}).items():
            value = schema.get("examples", [schema.get("default")])[0]
            if value is not None:
                fields.setdefault(field, value)
        shown.setdefault(find_schema(find_answer(operation))[0], fields)
    for operation in operations:
        content = find_answer(operation)
        name, several = find_schema(content)
        if name:
            row = make_example({"$ref": name}, schemas, shown, name)
            sent = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            sent = sent.get("example")
            if not several and isinstance(sent, dict):
                row = row | {field: value for field, value in sent.items() if field in row}
            content["application/json"].setdefault("example", [row] if several else row)


EXAMPLES = {
    "integer": 1,
    "boolean": True,
    "number": 1,
    "object": {},
    "date-time": "2026-11-21T07:44:02.761961Z",
    "date": "2030-01-31",
    "uuid": "0190a5f4-7c1e-7000-8000-0123456789ab",
    "idn-email": "ada@example.com",
    "iri": "https://example.com/",
}


def make_example(
    schema: Any, schemas: Any, known: dict[str, dict[str, Any]], name: str, *outer: str
) -> Any:
    """Makes an example of a schema called `name`. `known` has the values of some schemas' fields."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema, outer = ({} if name in outer else schemas[name]), (*outer, name)
    if "examples" in schema:
        return schema["examples"][0]
    if "properties" in schema:
        values = known.get(name, {})
        return {
            field: values[field]
            if field in values
            else make_example(inner, schemas, known, field, *outer)
            for field, inner in schema["properties"].items()
        }
    if "anyOf" in schema:
        return make_example(schema["anyOf"][0], schemas, known, name, *outer)
    if schema.get("type") == "array":
        items = make_example(schema["items"], schemas, known, name, *outer)
        return [] if items is None else [items]
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    text = name.replace("_", " ").capitalize() if kind == "string" else None
    return EXAMPLES.get(schema.get("format"), EXAMPLES.get(kind, text))


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns the `responses` of a route that answers with these errors."""
    return {s: {"$ref": f"#/components/responses/{s}"} for s in statuses}


def refusal(detail: str, *errors: tuple[list[str | int], str, str]) -> dict[str, Any]:
    found = [InputError(loc=loc, msg=msg, type=kind) for loc, msg, kind in errors] or None
    return {"detail": detail, "errors": found}


# By status: when it occurs, and examples. A test compares these with what the service answers.
PROBLEMS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "400": (
        "A malformed header, or a body that cannot be decoded.",
        {
            "condition": refusal(
                'If-Match must contain quoted entity tags, as in "…", or be *.',
            ),
            "key": refusal(
                "Idempotency-Key must be one string of 1 to 255 printable ASCII characters."
            ),
        },
    ),
    "401": (
        "No token, or a wrong one.",
        {"token": refusal("Send the header Authorization: Bearer <token>.")},
    ),
    "403": (
        "The token may only read, or the service has none configured.",
        {"read_only": refusal("This token may only read.")},
    ),
    "404": ("There is no such row.", {"row": refusal("There is no row with this id.")}),
    "409": (
        "A conflict with other rows, or a request with the same `Idempotency-Key` is in progress.",
        {
            "unique": refusal(
                "This conflicts with existing rows; see `errors`.",
                (["body", "name"], MESSAGES["unique"], "unique"),
            ),
            "foreign_key": refusal(
                "This conflicts with existing rows; see `errors`.",
                (["body", "parent_id"], MESSAGES["foreign_key"], "foreign_key"),
            ),
            "in_progress": refusal("The first request with this Idempotency-Key is in progress."),
        },
    ),
    "412": (
        "The row has changed since you read it.",
        {"changed": refusal("The row has changed since you read it; read it again.")},
    ),
    "413": (
        "The body is too large.",
        {"size": refusal("The body is larger than 1048576 bytes.")},
    ),
    "415": (
        "The body is not declared as JSON.",
        {"type": refusal("Send the header Content-Type: application/json.")},
    ),
    "422": (
        "The input is invalid. `errors` says where.",
        {
            "body": refusal(
                "The input is invalid; see `errors`.",
                (["body", "name"], "Field required", "missing"),
            ),
            "query": refusal(
                "The input is invalid; see `errors`.",
                (
                    ["query", "limit"],
                    "Input should be less than or equal to 100",
                    "less_than_equal",
                ),
            ),
        },
    ),
    "500": (
        "A defect of the service. Its log has the details, by the `X-Request-ID`.",
        {"defect": refusal("Internal error; the log has the details.")},
    ),
    "503": (
        "The database is away or busy. Try again after `Retry-After` seconds.",
        {"database": refusal("The database is unavailable; try again.")},
    ),
}
FIELDS_OF_PROBLEMS = {
    "Problem": {
        "type": "always `about:blank`: `status` says all",
        "title": "the phrase of the status",
        "status": "the HTTP status",
        "detail": "what is wrong, for people",
        "errors": "where the input is wrong",
    },
    "InputError": {
        "loc": "`body`, `query` or `path`, then the name of the field; in an array, its index before",
        "msg": "what is wrong, for people",
        "type": "what is wrong, for programs, such as `missing`, `extra_forbidden` or `unique`",
    },
}


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
        ("503", "Retry-After", "seconds to wait", "1"),
    ):
        if status in responses:
            header = {"description": text, "schema": {"type": "string", "examples": [value]}}
            responses[status]["headers"] = {name: header}
    return {"schemas": schemas, "responses": responses}


def describe_problem(status: str) -> dict[str, Any]:
    title = HTTPStatus(int(status)).phrase
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


def add_overview(info: dict[str, Any]) -> None:
    """Adds what holds for all operations to the app's own description."""
    parts = [info.get("description", ""), OVERVIEW, LIVE if LIVE_VIEW.exists() else ""]
    info["description"] = "\n\n".join(part.strip() for part in parts if part)


def add_guide(operation: dict[str, Any]) -> None:
    """Adds how to page, to retry and to avoid overwriting to the description of an operation."""
    guides = {"limit": PAGING, "Idempotency-Key": RETRYING, "If-Match": CONDITION}
    names = {parameter["name"] for parameter in operation.get("parameters", ())}
    parts = [operation.get("description", "")]
    parts += [text for name, text in guides.items() if name in names]
    operation["description"] = "\n\n".join(filter(None, parts))
    for status, response in operation["responses"].items():
        if (
            "$ref" in response
        ):  # FastAPI adds a description, which would replace that of the component
            operation["responses"][status] = {"$ref": response["$ref"]}
        elif "Idempotency-Key" in names and status < "300":
            response.setdefault("headers", {})["Idempotency-Replayed"] = {
                "schema": {"type": "string"},
                "description": "`true`, if this is the response to an earlier request with this key",
            }


def describe_parameters(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Describes the parameters that do not describe themselves, and gives each an example.

    The examples are in the schemas: Postman finds them there, and /docs does not send them unasked.
    """
    content = find_answer(operation)
    name, several = find_schema(content)
    shown = schemas.get(name, {}).get("properties", {})
    row = content["application/json"]["example"][0] if name and several else {}
    for parameter in operation.get("parameters", ()):
        name, schema = parameter["name"], parameter["schema"]
        if text := describe_parameter(name, parameter["in"], schema, shown):
            parameter.setdefault("description", text)
        if name == "Idempotency-Key":  # one for each operation, because it goes with one request
            parameter["schema"] = schema | {"examples": [f"{operation['operationId']}-1"]}
        elif parameter["in"] != "header" and not {"example", "default"} & {*parameter, *schema}:
            example = row[name] if name in row else make_example(schema, schemas, {}, name)
            schema.setdefault("examples", [example])


def describe_parameter(name: str, place: str, schema: dict[str, Any], shown: Any) -> str | None:
    """Describes a parameter of the path, or a filter, by its name."""
    if place == "path":
        return f"the `id` of the {name.removesuffix('_id').replace('_', ' ')}"
    if name == "sort":
        return "column to sort by; rows with equal values are sorted by `id`"
    stem, _, suffix = name.rpartition("_")
    if name in shown:
        case = ", ignoring case" if schema.get("format") == "idn-email" else ""
        text = schema.get("type") == "string" and not schema.keys() & {"format", "enum"}
        exactly = "exactly " if text else ""
        return f"only rows with {exactly}this `{name}`{case}"
    if name.endswith("_is_null"):
        column = name.removesuffix("_is_null")
        return f"`true`: only rows without `{column}`; `false`: only rows with it"
    for column in (f"{stem}_at", f"{stem}_on", stem):
        if suffix in ("before", "after") and column in shown:
            return f"only rows whose `{column}` is {suffix} this; this itself is excluded"
    return None


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
