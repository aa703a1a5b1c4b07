"""Examples for the OpenAPI document."""

from collections import defaultdict
from typing import Any


def find_schema(content: dict[str, Any]) -> tuple[str, bool]:
    """Returns the name of the schema of a JSON body, and whether the body is a list of such."""
    schema = content.get("application/json", {}).get("schema", {})
    several = schema.get("type") == "array"
    reference = (schema.get("items", {}) if several else schema).get("$ref", "")
    return reference.rpartition("/")[2], several


def find_answer(operation: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of the operation's first successful response, which may be empty."""
    return next(iter(find_answers(operation)), {})


def find_answers(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the contents of its successful responses. A PUT may have two, with 200 and 201."""
    responses = operation["responses"].items()
    return [r["content"] for status, r in responses if status < "300" and "content" in r]


def add_examples(operations: list[Any], schemas: dict[str, Any]) -> None:
    """Gives an example to the parameters in paths, to each body, and to each successful response.

    They are where clients such as Postman look for them. A response shows what the bodies that create such
    rows have sent.
    """
    created: dict[str, dict[str, Any]] = defaultdict(dict)  # by tag
    tags: dict[str, str] = {}  # by the schema of a response
    for operation in operations:
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path" and parameter["schema"].get("type") == "integer":
                parameter.setdefault("example", 1)
        tag = operation["tags"][0]
        for content in operation.get("requestBody", {}).get("content", {}).values():
            body = make_example(content["schema"], schemas, sent=True)
            content.setdefault("example", body)
            row = body[0] if isinstance(body, list) and body else body
            if isinstance(row, dict):
                schema = schemas.get(find_schema({"application/json": content})[0], {})
                created[tag] = find_defaults(schema) | row | created[tag]
        tags.setdefault(find_schema(find_answer(operation))[0], tag)
    shown = {schema: created[tag] for schema, tag in tags.items()}
    for operation in operations:
        bodies = operation.get("requestBody", {}).get("content", {})
        sent = bodies.get("application/json", {}).get("example")
        for content in find_answers(operation):
            name, several = find_schema(content)
            if name:
                row = make_example({"$ref": name}, schemas, shown)
                if not several and isinstance(sent, dict):
                    row = combine(row, sent)
                content["application/json"].setdefault("example", [row] if several else row)


def find_defaults(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of the fields that a body may leave out. FastAPI omits a default of null."""
    fields = schema.get("properties", {}).items()
    optional = {n: f for n, f in fields if n not in schema.get("required", ())}
    return {n: f.get("default") for n, f in optional.items() if "default" in f or is_nullable(f)}


def is_nullable(schema: dict[str, Any]) -> bool:
    return {"type": "null"} in schema.get("anyOf", ())


def combine(shown: Any, sent: Any) -> Any:
    """Returns what is shown of a value that was sent: its objects may have other fields."""
    if shown and isinstance(shown, dict) and isinstance(sent, dict):
        return {name: combine(v, sent[name]) if name in sent else v for name, v in shown.items()}
    if shown and sent and isinstance(shown, list) and isinstance(sent, list):
        return [combine(shown[0], one) for one in sent]
    return sent


EXAMPLES = {
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
    schema: Any,
    schemas: Any,
    known: dict[str, dict[str, Any]] | None = None,
    name: str = "",
    *outer: str,
    sent: bool = False,
) -> Any:
    """Makes an example of a schema called `name`. `known` has the values of some schemas' fields.

    An object to be `sent` has only the fields that it needs, and those with examples.
    """
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        # A schema may contain itself.
        schema, outer = ({} if name in outer else schemas[name]), (*outer, name)
    if "examples" in schema:
        return schema["examples"][0]

    def make(inner: Any, name: str) -> Any:
        return make_example(inner, schemas, known, name, *outer, sent=sent)

    if "properties" in schema:
        values = (known or {}).get(name, {})
        needed = schema.get("required", ())
        return {
            field: combine(make(inner, field), values[field])
            if values.get(field) is not None or (field in values and is_nullable(inner))
            else make(inner, field)
            for field, inner in schema["properties"].items()
            if not sent or field in needed or "examples" in inner
        }
    if alternatives := schema.get("anyOf", schema.get("oneOf")):
        return make(alternatives[0], name)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][0]
    kind, form = schema.get("type"), schema.get("format")
    if kind == "array":
        items = make(schema["items"], name) if "items" in schema else None
        return [] if items is None else [items]
    if kind == "integer":
        return max(1, schema.get("minimum", 1))
    if kind == "string" and form not in EXAMPLES:
        text = name.replace("_", " ").capitalize()[: schema.get("maxLength")]
        return text.ljust(schema.get("minLength", 0), "a")
    return EXAMPLES.get(form, EXAMPLES.get(kind))
