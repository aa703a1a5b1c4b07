"""What the OpenAPI document says in words: an overview, each error, each parameter."""

from typing import Any

from nutshell.errors import MESSAGES, InputError
from nutshell.openapi.examples import find_answer, find_schema, make_example

ACCESS = """
### Access
Send `Authorization: Bearer <token>` with each call; on this page, click *Authorize*. Only `/healthz`, `/readyz` and the
documentation need no token.
"""
OVERVIEW = """
### Calls
Bodies are JSON, and need `Content-Type: application/json`. An unknown field or query parameter is an error, and so is
a parameter given twice, except `id`. Paths have no trailing slash. A date with a time needs an offset, as in
`2030-01-31T12:00:00Z`; in a URL, write `+` as `%2B`. `HEAD` works wherever `GET` does.

Each response has an `X-Request-ID`, which is also in the service's log. You may send one of your own.

### Lists
A list is a JSON array of at most `limit` rows. If more rows follow, the response has a `Link` header with the URL of
the next page: `</path?after=50>; rel="next"`. The URL is relative: resolve it against the URL of the request. Without
headers, set `after` to the `id` of the last row, and stop at a page with fewer rows than `limit`.

`sort` and `order` change the order; follow the `Link` then, or use `offset`. `Prefer: count=exact` requests the number
of rows that the filters match, as `X-Total-Count`. Filters can be combined. `…_before` and `…_after` exclude the value
itself.

### Changes
`PATCH` changes only the fields that it contains. It may repeat `readOnly` fields, unchanged.

Each response with a row has an `ETag`, which changes whenever the row does. Send it, with its quotes, as `If-Match`
with `PATCH` or `DELETE`: if somebody else has changed the row since, nothing is overwritten, and the answer is 412. Then
read the row again, and send only the fields that you mean to change, with the new tag. Without `If-Match` the last change
wins. With `GET`, send the tag of an earlier `GET`, also of a list, as `If-None-Match`: the answer is 304, without a body,
if nothing has changed.

### Retries
A `POST` with an `Idempotency-Key`, a unique string of your choice such as a UUID, is executed once, however often you
send it. For 24 hours, a repetition with the same key and the same body, byte for byte, returns the first response, marked
by `Idempotency-Replayed: true`, even if the row has been changed since. So after a timeout, a 503, or a 409 with
`Retry-After`, repeat the request with the same key. Use a new key for each new request. Other methods ignore the header.

### Errors
Every error is a problem document (RFC 9457) of the type `application/problem+json`. `detail` is for people. In `errors`,
which every 422 has, each `loc` says where the input is wrong, and `type` is for programs.

Besides the errors that an operation lists, any call may be answered with 404 (there is no such path), 405 (`Allow` lists
the methods of the path), 408 (the body did not arrive in time) or 431 (the URL or the header is too large).

With 409, a `type` is `unique` (another row already has this value), `foreign_key` (no row has this id), or that of a rule of
the service's own, such as `check`, `exclusion` or `refused`. With 422, it is
- `missing`, `extra_forbidden` (there is no such field or parameter), `read_only`, `repeated`, `cursor` (not one of this
  list), `key_reused` (the `Idempotency-Key` was used for a different request),
- `json_invalid`, `model_attributes_type` (the body is not an object), `list_type` (it is not an array), `too_short`,
  `too_long` (the array has too few or too many entries),
- `string_type`, `bool_type`, `int_type`, `int_from_float`, `finite_number`: a value of another type, or null,
- `string_too_short`, `string_too_long`, `string_pattern_mismatch`, `string_unicode` (half of a surrogate pair),
- `greater_than_equal`, `less_than_equal`, `literal_error` (not one of the possible values), `timezone_aware` (a date-time
  without offset), `datetime_from_date_parsing` (there is no such date or time),
- `value_error`, or any other: `msg` says what is wrong.
"""
LIVE = """
### Live view
`/trace` shows each request as it happens, with its session, transaction and SQL statements, if the service runs with
`TRACE=1`, as with `make run`.
"""
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
        {
            "missing": refusal("Send the header Authorization: Bearer <token>."),
            "wrong": refusal("This token is not valid."),
        },
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
            "key": refusal(
                "This Idempotency-Key was used for a different request.",
                (
                    ["header", "Idempotency-Key"],
                    "This Idempotency-Key was used for a different request.",
                    "key_reused",
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
        "loc": "`body`, `query`, `path` or `header`, then the name of the field; in an array, its index before",
        "msg": "what is wrong, for people",
        "type": "what is wrong, for programs, such as `missing`, `extra_forbidden` or `unique`",
    },
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
            example = row.get(name)
            if example is None:
                example = make_example(schema, schemas, name=name)
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
