"""What holds for every resource, whatever they are: derived from the app, its document and its tables.

nutshell/tests tests what the machinery does. This file tests what each route has to do.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr, TypeAdapter
from sqlalchemy import UniqueConstraint
from sqlmodel import SQLModel

import main
import models
from nutshell.tests.fixtures import Wire, assert_problem
from nutshell.routes import ResourceRoute
from nutshell.settings import settings
from nutshell.tests.asgi import call
from tests.rows import ROWS

DOCUMENT = main.app.openapi()
OPERATIONS = {
    (method.upper(), path): operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if operation["tags"] != ["health"]
}
ROUTES = [route for route in main.app.routes if isinstance(route, ResourceRoute)]
LISTS = [
    path
    for (method, path), operation in OPERATIONS.items()
    if method == "GET" and any(p["name"] == "limit" for p in operation["parameters"])
]
CREATES = [path for method, path in OPERATIONS if method == "POST"]
CHANGES = [path for method, path in OPERATIONS if method == "PATCH"]
ABSENT = 2**53 - 1
JSON = {"content-type": "application/json"}


def tables_of_models() -> list[Any]:
    return [
        found
        for found in vars(models).values()
        if isinstance(found, type) and issubclass(found, SQLModel) and hasattr(found, "__table__")
    ]


def fill(path: str, number: object = ABSENT) -> str:
    return re.sub(r"{\w+}", str(number), path)


def methods_of(path: str) -> set[str]:
    """The methods of a resource's single row."""
    return {
        method for method, other in OPERATIONS if re.fullmatch(rf"{re.escape(path)}/{{\w+}}", other)
    }


def test_every_resource_says_how_to_make_a_row() -> None:
    lists = {path for path in LISTS if "{" not in path}
    assert ROWS.keys() == lists, "tests/rows.py must have a function for each list, and no other"


# Every operation


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_call_without_token_is_refused(
    monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    """It does not reach the database."""
    monkeypatch.setattr(settings, "api_token", SecretStr("sesame"))
    status, body = await call(main.app, method, fill(path))
    assert status == json.loads(body)["status"] == 401


@pytest.mark.parametrize(("method", "path"), [key for key in OPERATIONS if "{" in key[1]])
async def test_absent_row_is_not_found(client: httpx.AsyncClient, method: str, path: str) -> None:
    data: Any = None
    if method in ("POST", "PATCH"):
        data = example(method, path)
    assert_problem(await client.request(method, fill(path), json=data), 404)


@pytest.mark.parametrize(("method", "path"), [key for key in OPERATIONS if "{" in key[1]])
async def test_impossible_id_is_refused(client: httpx.AsyncClient, method: str, path: str) -> None:
    for number in (
        "0",
        "-1",
        str(2**63),
        "9" * 5000,
        "1.5",
        "x",
        "%00",
        "%ff",
        "+1",
        "1_0",
        "%C2%A01",
    ):
        response = await client.request(method, fill(path, number), content=b"{}", headers=JSON)
        assert response.status_code == 422
        assert response.json()["errors"][0]["loc"][0] == "path"


@pytest.mark.parametrize(
    ("method", "path"), [key for key, value in OPERATIONS.items() if "requestBody" in value]
)
async def test_senseless_body_is_refused(client: httpx.AsyncClient, method: str, path: str) -> None:
    for body in (b"", b"{", b"null", b"5", b"NaN", b'{"unknown": 1}', b'{"\\ud800": 1}'):
        response = await client.request(method, fill(path, 1), content=body, headers=JSON)
        assert response.status_code == 422, (body, response.text)
        assert response.json()["errors"]


def schema_of(content: dict[str, Any]) -> dict[str, Any]:
    """The schema of a body, or of the entries of a body that is a list."""
    schema: dict[str, Any] = content["content"]["application/json"]["schema"]
    schema = schema.get("items", schema)
    found: dict[str, Any] = DOCUMENT["components"]["schemas"][schema["$ref"].split("/")[-1]]
    return found


def body_of(method: str, path: str) -> dict[str, Any]:
    return schema_of(OPERATIONS[method, path]["requestBody"])


def read_only(path: str) -> list[str]:
    """The fields that a PATCH of this path may repeat, but not change."""
    fields = body_of("PATCH", path)["properties"].items()
    return [name for name, field in fields if field.get("readOnly")]


async def make_row(client: httpx.AsyncClient, path: str) -> tuple[dict[str, Any], str]:
    """A row that a PATCH of this path can change, and the path of this row."""
    row = await ROWS[path.rpartition("/")[0]](client, 1)
    return row, fill(path, row["id"])


def example(method: str, path: str) -> dict[str, Any]:
    """A body made of the document's examples."""
    schema = body_of(method, path)
    return {
        name: field["examples"][0]
        for name, field in schema["properties"].items()
        if name in schema.get("required", ()) and "examples" in field
    }


def test_document_describes_every_operation() -> None:
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(names) == len(set(names))
    for route in ROUTES:
        assert route.endpoint.__doc__, f"{route.name} has no docstring"
    tables = {table.__name__ for table in tables_of_models()}
    assert not tables & DOCUMENT["components"]["schemas"].keys(), "a table is no request or answer"


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_document_describes_every_parameter(method: str, path: str) -> None:
    """A filter of another name than its column's needs `left_out(description="…")`."""
    for parameter in OPERATIONS[method, path].get("parameters", ()):
        assert parameter.get("description"), parameter["name"]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_document_has_a_valid_example_of_every_answer(route: ResourceRoute) -> None:
    """Its values are the examples of the Create schema, where there are any."""
    for method in route.methods or ():
        responses = OPERATIONS[method, route.path]["responses"]
        contents = [
            r["content"] for status, r in responses.items() if status < "300" and "content" in r
        ]
        assert len(contents) == (route.response_model is not None)
        for content in contents:
            example = content["application/json"]["example"]
            kind: TypeAdapter[Any] = TypeAdapter(route.response_model)
            shown = kind.dump_json(kind.validate_python(example), by_alias=True)
            assert json.loads(shown) == example


def integers(part: Any, *place: object) -> Iterator[tuple[tuple[object, ...], dict[str, Any]]]:
    """The schemas of integers in a part of the document, with their places."""
    if isinstance(part, dict) and part.get("type") == "integer":
        yield place, part
    if isinstance(part, dict | list):
        for key, inner in part.items() if isinstance(part, dict) else enumerate(part):
            yield from integers(inner, *place, key)


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_integers_have_64_bits(path: str) -> None:
    """Without the format, clients generated in Go, Java or C# take 32."""
    schemas = DOCUMENT["components"]["schemas"]
    found = [*integers(DOCUMENT["paths"][path], path), *integers(schemas, "schemas")]
    assert [place for place, schema in found if schema.get("format") != "int64"] == []
    if path in LISTS:
        assert found[0][0][0] == path, "`limit` is an integer"


def numbers(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The fields of a body that are whole numbers, and can be set, and can be null or not."""
    found = {}
    for name, field in schema["properties"].items():
        for kind in field.get("anyOf", [field]):
            if kind.get("type") == "integer" and "readOnly" not in field:
                found[name] = kind
    return found


@pytest.mark.parametrize(
    ("method", "path"), [key for key in OPERATIONS if key[0] in ("POST", "PATCH")]
)
def test_whole_numbers_have_bounds(method: str, path: str) -> None:
    """Without them, a number of 20 digits is a 500. See `Whole` in nutshell/fields.py."""
    for name, field in numbers(body_of(method, path)).items():
        assert field.keys() >= {"minimum", "maximum"}, name


@pytest.mark.parametrize("path", CHANGES)
async def test_columns_take_the_whole_numbers_that_the_document_allows(
    client: httpx.AsyncClient, path: str
) -> None:
    """A column without sa_type=BIGINT has 32 bits on PostgreSQL."""
    _, url = await make_row(client, path)
    for name, field in numbers(body_of("PATCH", path)).items():
        for value in (field["minimum"], field["maximum"]):
            response = await client.patch(url, json={name: value})
            assert response.status_code in (200, 409, 422), (name, value)


@pytest.mark.parametrize("path", CREATES)
def test_body_of_create_has_examples(path: str) -> None:
    schema = body_of("POST", path)
    fields = schema["properties"]
    without = {name for name in schema["required"] if "examples" not in fields[name]}
    without = {name for name in without if not name.endswith("_id")}
    assert not without, 'add schema_extra={"examples": […]} to these fields in models.py'


@pytest.mark.parametrize("path", CHANGES)
async def test_example_of_a_change_is_small_and_works(client: httpx.AsyncClient, path: str) -> None:
    (body,) = body_of("PATCH", path)["examples"]
    row, url = await make_row(client, path)
    # Which rows there are to refer to, no example can know.
    body = {name: row[name] if name.endswith("_id") else body[name] for name in body}
    response = await client.patch(url, json=body)
    assert response.json() == row | body
    assert len(body) == 1, "to execute it in /docs must not overwrite a whole row"


@pytest.mark.parametrize("path", CHANGES)
def test_change_has_each_field_that_is_shown(path: str) -> None:
    shown = schema_of(OPERATIONS["PATCH", path]["responses"]["200"])
    assert shown["properties"].keys() <= body_of("PATCH", path)["properties"].keys()


def cut_to_milliseconds(value: Any) -> Any:
    """What JavaScript makes of the moments in an answer."""
    return json.loads(re.sub(r'(T[\d:]+\.\d{3})\d*Z"', r'\1Z"', json.dumps(value)))


@pytest.mark.parametrize("path", CHANGES)
async def test_change_may_send_back_what_is_shown(client: httpx.AsyncClient, path: str) -> None:
    row, url = await make_row(client, path)
    cut = cut_to_milliseconds({name: row[name] for name in read_only(path)})
    for data in (row, row | cut, cut):
        response = await client.patch(url, json=data)
        assert response.status_code == 200, response.text
        assert response.json() == row


@pytest.mark.parametrize("path", CHANGES)
async def test_change_of_what_is_read_only_is_refused(client: httpx.AsyncClient, path: str) -> None:
    row, url = await make_row(client, path)
    names = read_only(path)
    assert "id" in names
    for name in names:
        for value in (None, -1, True, "x", [row[name]], {"id": -1}):
            assert_problem(await client.patch(url, json={name: value}), 422, ("body", name))
    assert (await client.get(url)).json() == row


# Every list


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("path", ROWS)
async def test_list_pages_to_the_end(client: httpx.AsyncClient, path: str, order: str) -> None:
    ids = [(await ROWS[path](client, number))["id"] for number in range(5)]
    seen: list[int] = []
    url: str | None = f"{path}?limit=2&order={order}"
    while url is not None:
        response = await client.get(url)
        seen += [row["id"] for row in response.json()]
        url = response.links["next"]["url"] if response.links else None
    assert seen == (ids if order == "asc" else ids[::-1])


@pytest.mark.parametrize("path", ROWS)
async def test_list_is_sorted_by_each_column_that_it_names(
    client: httpx.AsyncClient, path: str
) -> None:
    """Each of them leads an index. Null comes last, or first in descending order."""
    parameters = {p["name"]: p["schema"] for p in OPERATIONS["GET", path]["parameters"]}
    table = next(t.__table__ for t in tables_of_models() if t.__tablename__ == path[1:])
    indexed = {next(iter(index.columns)).name for index in table.indexes}
    indexed |= {next(iter(c.columns)).name for c in table.constraints}
    for number in range(3):
        await ROWS[path](client, number)
    for column in parameters["sort"].get("enum", ["id"]):
        assert column in indexed, f"no index begins with {column}"
        for order in ("asc", "desc"):
            response = await client.get(f"{path}?sort={column}&order={order}")
            shown = [(row[column] is None, row[column], row["id"]) for row in response.json()]
            assert shown == sorted(shown, reverse=order == "desc")


@pytest.mark.parametrize("path", ROWS)
async def test_list_counts_its_rows_when_asked(client: httpx.AsyncClient, path: str) -> None:
    for number in range(3):
        await ROWS[path](client, number)
    response = await client.get(f"{path}?limit=1", headers={"prefer": "count=exact"})
    assert response.headers["x-total-count"] == "3"


@pytest.mark.parametrize("path", LISTS)
async def test_list_with_bad_parameter_is_refused(client: httpx.AsyncClient, path: str) -> None:
    for name, value in [
        ("limit", "0"),
        ("limit", "101"),
        ("offset", "-1"),
        ("after", str(2**63)),
        ("order", "up"),
        ("sort", "nothing"),
        ("unknown", "1"),
    ]:
        response = await client.get(fill(path, 1), params={name: value})
        assert_problem(response, 422, ("query", name))


# Every single row


@pytest.mark.parametrize("path", ROWS)
async def test_created_row_is_what_reading_it_shows(client: httpx.AsyncClient, path: str) -> None:
    row = await ROWS[path](client, 1)
    if "GET" not in methods_of(path):
        pytest.skip("a row of this resource cannot be read")
    read = await client.get(f"{path}/{row['id']}")
    assert row == read.json()
    again = await client.get(f"{path}/{row['id']}", headers={"if-none-match": read.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize("path", ROWS)
async def test_change_of_a_row_is_conditional_locked_and_committed(
    client: httpx.AsyncClient, wire: Wire, path: str, method: str
) -> None:
    if method not in methods_of(path):
        pytest.skip(f"a row of this resource has no {method}")
    row = await ROWS[path](client, 1)
    url = f"{path}/{row['id']}"
    data: dict[str, Any] | None = {} if method == "PATCH" else None
    stale = await client.request(method, url, json=data, headers={"if-match": '"stale"'})
    assert_problem(stale, 412)
    assert (await client.get(url)).json() == row
    tag = (await client.get(url)).headers["etag"]
    wire.clear()
    changed = await client.request(method, url, json=data, headers={"if-match": tag})
    assert changed.status_code == (200 if method == "PATCH" else 204)
    verbs = wire.verbs()
    assert (verbs[0], verbs[1], verbs[-1]) == ("BEGIN", "SELECT", "COMMIT")
    if wire.log is not None:
        assert "FOR UPDATE" in wire.log.read_bytes()[wire.offset :].decode()
    if method == "DELETE":
        assert_problem(await client.get(url), 404)


# Every reference

REFERENCES = [
    (table.__tablename__, key.parent.name, key.column.table.name, key.ondelete)
    for table in tables_of_models()
    for key in sorted(table.__table__.foreign_keys, key=lambda key: key.parent.name)
]


@pytest.mark.parametrize(("child", "column", "parent", "on_delete"), REFERENCES)
async def test_deleting_a_parent_does_to_its_children_what_the_reference_says(
    client: httpx.AsyncClient, child: str, column: str, parent: str, on_delete: str | None
) -> None:
    """A relationship without `passive_deletes="all"` would take the parent away before."""
    if f"/{child}" not in ROWS or "DELETE" not in methods_of(f"/{parent}"):
        pytest.skip("the API shows no such row, or deletes no such parent")
    row = await ROWS[f"/{child}"](client, 1)
    path = f"/{child}/{row['id']}"
    if row[column] is None:
        row[column] = (await ROWS[f"/{parent}"](client, 2))["id"]
        assert (await client.patch(path, json={column: row[column]})).status_code == 200
    deleted = await client.delete(f"/{parent}/{row[column]}")
    left = await client.get(path)
    if on_delete == "CASCADE":
        assert (deleted.status_code, left.status_code) == (204, 404)
    elif on_delete == "SET NULL":
        assert (deleted.status_code, left.json()[column]) == (204, None)
    else:
        assert (deleted.status_code, left.json()[column]) == (409, row[column])


# Every table


def test_every_reference_leads_an_index() -> None:
    """Without one, each deletion of the row that is referred to reads the whole table."""
    for table in (class_.__table__ for class_ in tables_of_models()):
        unique = [c for c in table.constraints if isinstance(c, UniqueConstraint)]
        leading = {next(iter(index.columns)).name for index in (*table.indexes, *unique)}
        columns = {key.parent.name for key in table.foreign_keys}
        assert columns <= leading, table.name
