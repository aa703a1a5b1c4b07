"""What holds for every resource, whatever they are: derived from the app, its document and its tables.

nutshell/tests tests what the machinery does. This file tests what each route has to do.
"""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import find
from hypothesis.strategies import from_regex
from pydantic import SecretStr, TypeAdapter
from sqlalchemy import Numeric, PrimaryKeyConstraint, Table, UniqueConstraint, select
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

import main
import models
from nutshell.tests.fixtures import Wire, assert_problem, walk
from nutshell.columns import ExactNumeric
from nutshell.routes import ResourceRoute
from nutshell.settings import settings
from nutshell.tests.asgi import call
from tests.rows import KEPT, ROWS

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
CHANGES = [path for method, path in OPERATIONS if method == "PATCH" and path.endswith("}")]
WITH_BODY = [
    key
    for key, operation in OPERATIONS.items()
    if "application/json" in operation.get("requestBody", {}).get("content", {})
]
TOP_LISTS = [path for path in ROWS if "{" not in path]
ABSENT = 2**53 - 1
ABSENT_UUID = "0190a5f4-7c1e-7000-8000-0123456789ab"
JSON = {"content-type": "application/json"}

CLASSES = [
    found
    for found in vars(models).values()
    if isinstance(found, type) and issubclass(found, SQLModel) and hasattr(found, "__table__")
]
TABLES: list[Table] = [
    *(class_.__table__ for class_ in CLASSES),
    *(found for found in vars(models).values() if isinstance(found, Table)),
]


def table_of(path: str) -> Table | None:
    """The table whose rows the list shows: `/credit-notes` shows credit_notes."""
    name = path.rpartition("/")[2].replace("-", "_")
    return next((table for table in TABLES if table.name == name), None)


def parameters_of(path: str) -> dict[str, dict[str, Any]]:
    """The schemas of the parameters in a path."""
    (operation, *_) = DOCUMENT["paths"][path].values()
    found = {p["name"]: p["schema"] for p in operation.get("parameters", ()) if p["in"] == "path"}
    return {name: found.get(name, {}) for name in re.findall(r"{(\w+)}", path)}


def is_id(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "integer" or schema.get("format") == "uuid"


def absent(schema: dict[str, Any]) -> object:
    """A value that the parameter may have, and no row has."""
    if schema.get("type") == "integer":
        return ABSENT
    if schema.get("format") == "uuid":
        return ABSENT_UUID
    if "enum" in schema:
        return schema["enum"][-1]
    least, most = schema.get("minLength", 1), schema.get("maxLength", 100)
    texts = from_regex(re.compile(schema.get("pattern", "^[a-z]+$"), re.ASCII))
    return find(texts, lambda text: least <= len(text) <= most and text.isalnum())


def fill(path: str, number: object = None) -> str:
    """The path with this number for each id, or with ids that no row has."""
    values = {
        name: number if number is not None and is_id(schema) else absent(schema)
        for name, schema in parameters_of(path).items()
    }
    return path.format(**values)


def url_of(path: str, row: dict[str, Any]) -> str:
    """The path of this row. A parameter that is no field of the row is its id."""
    return path.format(**{name: row.get(name, row.get("id")) for name in parameters_of(path)})


def methods_of(path: str) -> set[str]:
    """The methods of a resource's single row."""
    return set(DOCUMENT["paths"].get(single(path), {}).keys() & {"get", "patch", "delete"})


def single(path: str) -> str:
    """The path of a resource's single row."""
    pattern = re.compile(rf"{re.escape(path)}/{{\w+}}")
    return next((other for other in DOCUMENT["paths"] if pattern.fullmatch(other)), "")


def settled(row: dict[str, Any]) -> dict[str, Any]:
    """The row without what changes with other fields, or by itself."""
    kept = {column.name for table in TABLES for column in table.columns if column.onupdate}
    return {name: value for name, value in row.items() if name not in KEPT | kept}


def test_every_resource_says_how_to_make_a_row() -> None:
    needed = {path for path in LISTS if "{" not in path}
    needed |= {path.rpartition("/")[0] for path in CHANGES}
    message = "tests/rows.py must have a function for each list and for each row that can change"
    assert needed <= ROWS.keys() <= needed | set(LISTS), message


# Every operation


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_call_without_token_is_refused(
    monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    """It does not reach the database."""
    monkeypatch.setattr(settings, "api_token", SecretStr("sesame"))
    status, body = await call(main.app, method, fill(path))
    assert status == json.loads(body)["status"]
    assert status in (401, 403)


@pytest.mark.parametrize(("method", "path"), [key for key in OPERATIONS if "{" in key[1]])
async def test_absent_row_is_not_found(client: httpx.AsyncClient, method: str, path: str) -> None:
    response = await client.request(method, fill(path), json=example(method, path))
    if method == "PUT" and path.endswith("}"):
        assert response.status_code in (200, 201, 204, 404, 409), "it may create the row"
    else:
        assert_problem(response, 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [key for key in OPERATIONS if any(map(is_id, parameters_of(key[1]).values()))],
)
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


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
async def test_senseless_body_is_refused(client: httpx.AsyncClient, method: str, path: str) -> None:
    bodies = [b"{", b"5", b"NaN", b'{"unknown": 1}', b'{"\\ud800": 1}']
    if OPERATIONS[method, path]["requestBody"].get("required"):
        bodies += [b"", b"null"]
    for body in bodies:
        response = await client.request(method, fill(path), content=body, headers=JSON)
        assert response.status_code == 422, (body, response.text)
        assert response.json()["errors"]


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object, or of the entries of a list, without references."""
    schema = schema.get("items", schema)
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = DOCUMENT["components"]["schemas"].get(name, schema)
    return found


def schema_of(content: dict[str, Any]) -> dict[str, Any]:
    """The schema of a body, or of the entries of a body that is a list."""
    return resolve(content["content"]["application/json"]["schema"])


def body_of(method: str, path: str) -> dict[str, Any]:
    return schema_of(OPERATIONS[method, path]["requestBody"])


def fields_of(schema: dict[str, Any], *place: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """The fields of a body that can be set, also in nested objects: name, schema, and if it is required."""
    for name, field in schema.get("properties", {}).items():
        if field.get("readOnly") or name in place:
            continue
        for kind in field.get("anyOf", [field]):
            inner = resolve(kind)
            yield ".".join((*place, name)), inner | field, name in schema.get("required", ())
            yield from fields_of(inner, *place, name)


def read_only(path: str) -> list[str]:
    """The fields that a PATCH of this path may repeat, but not change."""
    fields = body_of("PATCH", path)["properties"].items()
    return [name for name, field in fields if field.get("readOnly")]


async def make_row(client: httpx.AsyncClient, path: str) -> tuple[dict[str, Any], str]:
    """A row that a PATCH of this path can change, and the path of this row."""
    row = await ROWS[path.rpartition("/")[0]](client, 1)
    return row, url_of(path, row)


def example(method: str, path: str) -> Any:
    """The body that the document proposes, if there is one."""
    if (method, path) not in WITH_BODY:
        return None
    return OPERATIONS[method, path]["requestBody"]["content"]["application/json"]["example"]


def test_document_describes_every_operation() -> None:
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(names) == len(set(names))
    for route in ROUTES:
        assert route.endpoint.__doc__, f"{route.name} has no docstring"
    tables = {class_.__name__ for class_ in CLASSES}
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
        assert bool(contents) == (route.response_model is not None)
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


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
def test_whole_numbers_have_bounds(method: str, path: str) -> None:
    """Without them, a number of 20 digits is a 500. See `Whole` in nutshell/fields.py."""
    for name, field, _ in fields_of(body_of(method, path)):
        assert not field.keys() & {"ge", "gt", "le", "lt"}, (
            f"the document does not know these of {name}"
        )
        if field.get("type") == "integer":
            assert field.keys() >= {"minimum", "maximum"}, name


@pytest.mark.parametrize("path", CHANGES)
async def test_columns_take_the_whole_numbers_that_the_document_allows(
    client: httpx.AsyncClient, path: str
) -> None:
    """A column without sa_type=BIGINT has 32 bits on PostgreSQL."""
    _, url = await make_row(client, path)
    for name, field, _ in fields_of(body_of("PATCH", path)):
        if field.get("type") == "integer" and "." not in name:
            for value in (field["minimum"], field["maximum"]):
                response = await client.patch(url, json={name: value})
                assert response.status_code in (200, 409, 422), (name, value)


@pytest.mark.parametrize(("method", "path"), [key for key in WITH_BODY if key[0] != "PATCH"])
def test_body_has_examples(method: str, path: str) -> None:
    known = ("uuid", "date", "date-time")  # whatever they are, the document can propose one
    without = [
        name
        for name, field, required in fields_of(body_of(method, path))
        if required and field.get("type") == "string" and field.get("format") not in known
        if not {"examples", "enum"} & field.keys()
    ]
    assert not without, 'add schema_extra={"examples": […]} to these fields in models.py'


@pytest.mark.parametrize("path", CHANGES)
async def test_example_of_a_change_is_small_and_works(client: httpx.AsyncClient, path: str) -> None:
    (body,) = body_of("PATCH", path)["examples"]
    row, url = await make_row(client, path)
    body = {name: row[name] if name.endswith("_id") else body[name] for name in body}
    response = await client.patch(url, json=body)
    assert settled(response.json()) == settled(row | body)
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
    for whole, cut in ((True, False), (True, True), (False, True)):
        shown = (await client.get(url)).json()
        data = shown if whole else {name: shown[name] for name in read_only(path)}
        response = await client.patch(url, json=cut_to_milliseconds(data) if cut else data)
        assert response.status_code == 200, response.text
        answered, before = settled(response.json()), settled(row)
        if cut:  # a moment that can be changed loses its microseconds
            answered, before = cut_to_milliseconds(answered), cut_to_milliseconds(before)
        assert answered == before


@pytest.mark.parametrize("path", CHANGES)
async def test_change_of_what_is_read_only_is_refused(client: httpx.AsyncClient, path: str) -> None:
    row, url = await make_row(client, path)
    names = read_only(path)
    assert "id" in names
    for name in names:
        for value in (None, -1, True, "x", [row[name]], {"id": -1}):
            if value is row[name]:  # null, or true
                continue
            assert_problem(await client.patch(url, json={name: value}), 422, ("body", name))
    assert (await client.get(url)).json() == row


# Every list


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("path", TOP_LISTS)
async def test_list_pages_to_the_end(client: httpx.AsyncClient, path: str, order: str) -> None:
    ids = [(await ROWS[path](client, number))["id"] for number in range(5)]
    seen = [row["id"] for row in await walk(client, f"{path}?limit=2&sort=id&order={order}")]
    assert len(seen) == len(set(seen))
    # To make a row may have needed others.
    assert [i for i in seen if i in ids] == (ids if order == "asc" else ids[::-1])


@pytest.mark.parametrize("path", TOP_LISTS)
async def test_list_is_sorted_by_each_column_that_it_names(
    client: httpx.AsyncClient, path: str
) -> None:
    """Each of them leads an index. Null comes last, or first in descending order."""
    parameters = {p["name"]: p["schema"] for p in OPERATIONS["GET", path]["parameters"]}
    table = table_of(path)
    assert table is not None, "a list has the name of its table"
    for number in range(3):
        await ROWS[path](client, number)
    for name in parameters["sort"].get("enum", ["id"]):
        assert name in {columns[0] for columns in indexed(table)}, f"no index begins with {name}"
        exact = isinstance(table.columns[name].type, ExactNumeric | Numeric)
        for order in ("asc", "desc"):
            rows = (await client.get(f"{path}?sort={name}&order={order}")).json()
            if not rows or name not in rows[0]:
                continue
            # Decimals are strings in JSON.
            values = [Decimal(r[name]) if exact and r[name] else r[name] for r in rows]
            shown = [(v is None, v, row["id"]) for v, row in zip(values, rows, strict=True)]
            assert shown == sorted(shown, reverse=order == "desc")


@pytest.mark.parametrize("path", TOP_LISTS)
async def test_list_counts_its_rows_when_asked(client: httpx.AsyncClient, path: str) -> None:
    for number in range(3):
        await ROWS[path](client, number)
    response = await client.get(f"{path}?limit=1", headers={"prefer": "count=exact"})
    assert int(response.headers["x-total-count"]) == len(await walk(client, path)) >= 3


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
        response = await client.get(fill(path), params={name: value})
        assert_problem(response, 422, ("query", name))


# Every single row


@pytest.mark.parametrize("path", ROWS)
async def test_created_row_is_what_reading_it_shows(client: httpx.AsyncClient, path: str) -> None:
    row = await ROWS[path](client, 1)
    if "get" not in methods_of(path):
        pytest.skip("a row of this resource cannot be read")
    url = url_of(single(path), row)
    read = await client.get(url)
    assert row == read.json()
    again = await client.get(url, headers={"if-none-match": read.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize("path", ROWS)
async def test_change_of_a_row_is_conditional_locked_and_committed(
    client: httpx.AsyncClient, wire: Wire, path: str, method: str
) -> None:
    if not {method.lower(), "get"} <= methods_of(path):
        pytest.skip(f"a row of this resource has no {method}, or no GET")
    row = await ROWS[path](client, 1)
    url = url_of(single(path), row)
    data: dict[str, Any] | None = {} if method == "PATCH" else None
    stale = await client.request(method, url, json=data, headers={"if-match": '"stale"'})
    assert_problem(stale, 412)
    assert (await client.get(url)).json() == row
    tag = (await client.get(url)).headers["etag"]
    wire.clear()
    changed = await client.request(method, url, json=data, headers={"if-match": tag})
    assert changed.status_code == (200 if method == "PATCH" else 204)
    verbs = wire.verbs()
    verbs = verbs[
        len(verbs) - verbs[::-1].index("BEGIN") - 1 :
    ]  # an own check may have read before
    assert (verbs[0], verbs[1], verbs[-1]) == ("BEGIN", "SELECT", "COMMIT")
    if wire.log is not None:
        assert "FOR UPDATE" in wire.log.read_bytes()[wire.offset :].decode()
    if method == "DELETE":
        assert_problem(await client.get(url), 404)


# Every reference

REFERENCES = [
    (path, key.parent.name, key.column.table.name, key.ondelete)
    for path in ROWS
    if (table := table_of(path)) is not None
    for key in sorted(table.foreign_keys, key=lambda key: key.parent.name)
    if key.column.name == "id"
]


@pytest.mark.parametrize(("path", "column", "parent", "on_delete"), REFERENCES)
async def test_deleting_a_parent_does_to_its_children_what_the_reference_says(
    client: httpx.AsyncClient,
    session: AsyncSession,
    path: str,
    column: str,
    parent: str,
    on_delete: str | None,
) -> None:
    """A relationship without `passive_deletes="all"` would take the parent away before."""
    parents = next((other for other in ROWS if getattr(table_of(other), "name", "") == parent), "")
    if "delete" not in methods_of(parents) or "get" not in methods_of(path):
        pytest.skip("the API shows no such row, or deletes no such parent")
    row = await ROWS[path](client, 1)
    url = url_of(single(path), row)
    if column not in row:
        pytest.skip("the API does not show this reference")
    if row[column] is None:
        changed = await client.patch(url, json={column: (await ROWS[parents](client, 2))["id"]})
        if changed.status_code in (405, 422):
            pytest.skip("a PATCH does not set this reference")
        row = changed.json()
    (above,) = (await client.get(parents, params={"id": row[column]})).json()
    deleted = await client.delete(url_of(single(parents), above))
    left = await client.get(url)
    key = SQLModel.metadata.tables[parent].columns["id"]
    kept = await session.scalar(select(key).where(key == key.type.python_type(row[column])))
    if deleted.status_code == 204 and kept is not None:
        assert left.json()[column] == row[column], "the parent is marked as deleted, and kept"
    elif on_delete == "CASCADE":
        assert (deleted.status_code, left.status_code) == (204, 404)
    elif on_delete == "SET NULL":
        assert (deleted.status_code, left.json()[column]) == (204, None)
    else:
        assert (deleted.status_code, left.json()[column]) == (409, row[column])


# Every table


def indexed(table: Table) -> list[list[str]]:
    """The columns of each index of the table, in order."""
    keys = (PrimaryKeyConstraint, UniqueConstraint)
    unique = [c for c in table.constraints if isinstance(c, keys)]
    return [[column.name for column in index.columns] for index in (*table.indexes, *unique)]


def test_every_reference_leads_an_index() -> None:
    """Without one, each deletion of the row that is referred to reads the whole table."""
    for table in TABLES:
        for key in table.foreign_key_constraints:
            names = {column.name for column in key.columns}
            leading = [set(columns[: len(names)]) for columns in indexed(table)]
            assert names in leading, (table.name, names)
