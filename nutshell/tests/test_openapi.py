"""The document: its overview, and examples of answers, errors and parameters."""

import json
from typing import Annotated, Any

import httpx
import pytest
from annotated_types import Interval
from fastapi import FastAPI, Query
from pydantic import SecretStr, TypeAdapter
from sqlmodel import Field, SQLModel

from nutshell.tests import library
from nutshell.tests.fixtures import assert_problem, create
from nutshell.app import create_app
from nutshell.fields import LEFT_OUT, MAX_INT, Id, Whole
from nutshell.middleware import MAX_BODY
from nutshell.openapi import guide
from nutshell.paging import Filter
from nutshell.routes import ResourceRoute
from nutshell.settings import LIVE_VIEW, settings

JSON = {"content-type": "application/json"}


async def read_document(client: httpx.AsyncClient) -> Any:
    return (await client.get("/openapi.json")).json()


async def test_overview_describes_what_all_operations_share(client: httpx.AsyncClient) -> None:
    text = (await read_document(client))["info"]["description"]
    for word in (
        "Authorization: Bearer",
        "X-Request-ID",
        "`Link`",
        "`after`",
        "`If-Match`",
        "`Idempotency-Key`",
        "`Idempotency-Replayed: true`",
        "RFC 9457",
        "`/trace`",
    ):
        assert word in text, word


async def test_overview_follows_the_description_of_the_app() -> None:
    app = create_app("Library", summary="For the tests.", description="It lends books.")
    text = app.openapi()["info"]["description"]
    assert text.startswith("It lends books.\n\n### Access")


async def test_overview_without_the_live_view_does_not_mention_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nutshell.openapi.document.LIVE_VIEW", LIVE_VIEW.with_name("nothing.py"))
    assert "/trace" not in create_app("Library", summary="").openapi()["info"]["description"]


async def test_operations_say_how_to_page_to_retry_and_not_to_overwrite(
    client: httpx.AsyncClient,
) -> None:
    """An agent may see nothing but the operations."""
    paths = (await read_document(client))["paths"]
    assert guide.PAGING in paths["/books"]["get"]["description"]
    assert guide.RETRYING in paths["/books"]["post"]["description"]
    assert "Idempotency-Replayed" in paths["/books"]["post"]["responses"]["201"]["headers"]
    for method in ("patch", "delete"):
        assert guide.CONDITION in paths["/books/{book_id}"][method]["description"]
    assert guide.PAGING not in paths["/books/{book_id}"]["get"]["description"]


async def test_every_parameter_has_a_description_and_an_example(client: httpx.AsyncClient) -> None:
    for path in (await read_document(client))["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                assert parameter["description"]
                assert {"example", "examples", "default"} & {*parameter, *parameter["schema"]}
                # /docs would send them unasked.
                if parameter["in"] != "path":
                    assert not {"example", "examples"} & parameter.keys()


def test_filters_are_described_by_their_names() -> None:
    shown: dict[str, Any] = {"due_at": {}, "built_on": {}, "name": {}, "email": {}, "owner_id": {}}
    text, number = {"type": "string"}, {"type": "integer"}
    for name, schema, expected in (
        ("due_before", text, "only rows whose `due_at` is before this; this itself is excluded"),
        ("built_after", text, "only rows whose `built_on` is after this; this itself is excluded"),
        ("name", text, "only rows with exactly this `name`"),
        ("email", text | {"format": "idn-email"}, "only rows with this `email`, ignoring case"),
        ("owner_id", number, "only rows with this `owner_id`"),
        (
            "owner_id_is_null",
            {"type": "boolean"},
            "`true`: only rows without `owner_id`; `false`: only rows with it",
        ),
        ("paid_before", text, None),
        ("q", text, None),
    ):
        assert guide.describe_parameter(name, "query", schema, shown) == expected


@pytest.mark.parametrize(
    "route",
    [route for route in library.app.routes if isinstance(route, ResourceRoute)],
    ids=lambda route: route.name,
)
def test_every_answer_has_a_valid_example(route: ResourceRoute) -> None:
    if route.response_model is None:
        return
    (method,) = route.methods or {"GET"}
    responses = library.app.openapi()["paths"][route.path][method.lower()]["responses"]
    example = responses[str(route.status_code or 200)]["content"]["application/json"]["example"]
    kind: TypeAdapter[Any] = TypeAdapter(route.response_model)
    assert json.loads(kind.dump_json(kind.validate_python(example))) == example


async def test_example_of_an_answer_has_the_values_of_its_create(client: httpx.AsyncClient) -> None:
    path = (await read_document(client))["paths"]["/books"]
    (row,) = path["get"]["responses"]["200"]["content"]["application/json"]["example"]
    assert row["title"] == "Notes"
    assert row["shelf"]["label"] == "Top"
    title = next(p for p in path["get"]["parameters"] if p["name"] == "title")
    assert title["schema"]["examples"] == ["Notes"]


class CupCreate(SQLModel):
    glazed: bool = False
    owner_id: int | None = None
    number: int | None = None  # by default, the service gives one


class CupRead(SQLModel):
    id: int
    glazed: bool
    owner_id: int | None
    number: int


class CupFilter(Filter):
    owner_id: Id = LEFT_OUT


def test_example_of_an_answer_has_the_defaults_of_fields_that_were_not_sent() -> None:
    app = create_app("Cups", summary="")

    async def create_cup(data: CupCreate) -> None:
        """Creates a cup."""

    async def list_cups(filters: Annotated[CupFilter, Query()]) -> None:
        """Lists cups."""

    app.post("/cups", response_model=CupRead, status_code=201)(create_cup)
    app.get("/cups", response_model=list[CupRead])(list_cups)
    cups = app.openapi()["paths"]["/cups"]
    answer = cups["post"]["responses"]["201"]["content"]["application/json"]["example"]
    assert answer == {"id": 1, "glazed": False, "owner_id": None, "number": 1}
    owner = next(p for p in cups["get"]["parameters"] if p["name"] == "owner_id")
    assert owner["schema"]["examples"] == [1], "a query has no null"


class Node(SQLModel):
    name: str
    children: list["Node"]


def test_example_of_a_tree_ends() -> None:
    app = create_app("Trees", summary="")

    async def read_node() -> Node:
        """Reads one node."""
        return Node(name="a", children=[])

    app.get("/nodes/{node_id}", response_model=Node)(read_node)
    answer = app.openapi()["paths"]["/nodes/{node_id}"]["get"]["responses"]["200"]
    assert answer["content"]["application/json"]["example"] == {"name": "Name", "children": []}


def examples_of(app: FastAPI, status: int) -> list[Any]:
    response = app.openapi()["components"]["responses"][str(status)]
    content = response["content"]["application/problem+json"]
    if "example" in content:
        return [content["example"]]
    return [example["value"] for example in content["examples"].values()]


def without_places(problem: Any) -> Any:
    """The examples of errors name fields that many services have."""
    for error in problem.get("errors", ()):
        error["loc"] = error["loc"][:1]
    return problem


async def test_examples_of_errors_are_what_the_service_answers(
    client: httpx.AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = await create(client, "/shelves", label="Top")
    url = f"/shelves/{shelf['id']}"
    answers = [
        await client.patch(url, json={}, headers={"if-match": "x"}),
        await client.post("/books", json={"title": "a"}, headers={"idempotency-key": ""}),
        await client.get("/shelves/2000"),
        await client.post("/shelves", json={"label": "Top"}),
        await client.post("/books", json={"title": "a", "shelf_id": 2000}),
        await client.patch(url, json={}, headers={"if-match": '"x"'}),
        await client.post("/books", content=b" " * (MAX_BODY + 1), headers=JSON),
        await client.post("/books", content=b"title=a"),
        await client.post("/books", json={}),
        await client.get("/books?limit=101"),
    ]
    key = {"idempotency-key": "a"}
    await client.post("/books", json={"title": "a"}, headers=key)
    answers.append(await client.post("/books", json={"title": "b"}, headers=key))
    monkeypatch.setattr(settings, "api_token", SecretStr("sesame"))
    monkeypatch.setattr(settings, "api_read_token", SecretStr("peep"))
    answers.append(await client.get("/books"))
    answers.append(await client.get("/books", headers={"authorization": "Bearer x"}))
    answers.append(await client.delete(url, headers={"authorization": "Bearer peep"}))
    for answer in answers:
        found = [without_places(example) for example in examples_of(app, answer.status_code)]
        assert without_places(answer.json()) in found
    # test_idempotency.py, test_errors.py and test_faults.py provoke the rest.
    provoked = {answer.status_code for answer in answers}
    assert {int(status) for status in guide.PROBLEMS} - provoked == {500, 503}


class Stay(SQLModel):
    nights: Annotated[Whole, Interval(ge=1, le=365)]
    rooms: Whole = Field(ge=1, le=9)
    guests: Annotated[Whole, Interval(gt=0)] | None = None
    balance: Whole = 0


async def test_bounds_that_narrow_a_type_hold_and_are_documented(
    client: httpx.AsyncClient, app: FastAPI, extra: FastAPI
) -> None:
    @extra.post("/stays")
    async def create_stay(data: Stay) -> None:
        """Creates a stay."""

    fields = app.openapi()["components"]["schemas"]["Stay"]["properties"]
    shown = {
        "nights": {"minimum": 1, "maximum": 365},
        "rooms": {"minimum": 1, "maximum": 9},
        "guests": {"exclusiveMinimum": 0, "maximum": MAX_INT},
        "balance": {"minimum": -MAX_INT, "maximum": MAX_INT},
    }
    sent = {"nights": 1, "rooms": 9}
    assert (await client.post("/stays", json=sent)).status_code == 200
    for name, bounds in shown.items():
        schema = fields[name].get("anyOf", [fields[name]])[0]
        assert bounds.items() <= schema.items()
        assert not {"ge", "gt", "le", "lt"} & schema.keys()
        low = bounds.get("minimum", 1) - 1
        for value in (low, bounds["maximum"] + 1):
            response = await client.post("/stays", json=sent | {name: value})
            assert_problem(response, 422, ("body", name))
