"""What a schema accepts is stored and shown, and the same by POST, GET, list and PATCH."""

import json
import os
import re
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from itertools import product
from typing import Annotated, Any, Literal
from uuid import RFC_4122, UUID

import httpx
import pytest
from email_validator import EmailNotValidError, validate_email
from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError, computed_field
from sqlalchemy import URL, String, create_engine, func
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import Session
from sqlmodel import Field, SQLModel, col, select

from nutshell.tests.fixtures import Pools, assert_problem, walk
from nutshell.columns import (
    JSON_TEXT,
    MAX_DEPTH,
    MONEY,
    Exact,
    ExactNumeric,
    Json,
    Money,
    Price,
    allow_only,
)
from nutshell.database import SessionDep
from nutshell.fields import (
    BIGINT,
    LEFT_OUT,
    MAX_INT,
    NEVER_REUSE_IDS,
    REFUSE_UNKNOWN,
    Day,
    Email,
    Flag,
    FlagQuery,
    Id,
    Instant,
    Read,
    Reference,
    Text,
    Update,
    Url,
    Uuid,
    Whole,
    uuid7,
)
from nutshell.paging import Filter
from nutshell.routes import ReplyDep
from nutshell.tests.postgres import Postgres

PLAIN = {"accept-encoding": "identity"}
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))


Rate = Annotated[Decimal, Exact(10, 9)]
State = Literal["draft", "sent"]


class SampleBase(SQLModel):
    """A field of each type."""

    text: Text | None = None
    whole: Whole | None = Field(default=None, sa_type=BIGINT)
    reference: Reference | None = Field(default=None, sa_type=BIGINT)
    flag: Flag | None = None
    email: Email | None = None
    day: Day | None = None
    instant: Instant | None = None
    money: Money | None = Field(default=None, sa_type=MONEY)
    cost: Money = Field(default=Decimal("0.00"), sa_type=MONEY)
    rate: Rate | None = Field(default=None, sa_type=ExactNumeric(10, 9))
    code: Uuid | None = None
    data: Json | None = Field(default=None, sa_type=JSON_TEXT)
    state: State | None = Field(default=None, sa_type=String)
    url: Url | None = None


class Sample(SampleBase, table=True):
    __tablename__ = "samples"
    __table_args__ = (allow_only("state", State), NEVER_REUSE_IDS)

    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)


class SampleCreate(SampleBase):
    model_config = REFUSE_UNKNOWN


class SampleRead(SQLModel):
    id: int
    text: str | None
    whole: int | None
    reference: int | None
    flag: bool | None
    email: str | None
    day: date | None
    instant: datetime | None
    money: Money | None
    cost: Money
    rate: Rate | None
    code: UUID | None
    data: Any
    state: str | None
    url: str | None


class SampleUpdate(Update[SampleRead]):
    text: Text | None = None
    whole: Whole | None = None
    reference: Reference | None = None
    flag: Flag | None = None
    email: Email | None = None
    day: Day | None = None
    instant: Instant | None = LEFT_OUT
    money: Money | None = None
    cost: Money = LEFT_OUT
    rate: Rate | None = None
    code: Uuid | None = None
    data: Json | None = None
    state: State | None = None
    url: Url | None = None


class SampleFilter(Filter):
    sort: Literal["id", "money", "cost", "rate", "code", "state"] = "id"
    flag: FlagQuery = LEFT_OUT
    money: Money = LEFT_OUT
    rate: Rate = LEFT_OUT
    code: Uuid = LEFT_OUT
    state: State = LEFT_OUT
    url: Url = LEFT_OUT


FILTERS = ("flag", "money", "rate", "code", "state", "url")


@pytest.fixture
async def samples(url: URL, extra: FastAPI, pools: Pools) -> AsyncIterator[str]:
    """The path of a resource with a field of each type."""
    engine = create_engine(url)
    SQLModel.metadata.create_all(engine, tables=[SQLModel.metadata.tables["samples"]])

    @extra.get("/samples", response_model=list[SampleRead])
    async def list_samples(
        filters: Annotated[SampleFilter, Query()], session: SessionDep, reply: ReplyDep
    ) -> Sequence[Any]:
        query = filters.select(Sample, SampleRead)
        for name in FILTERS:
            if (value := getattr(filters, name)) is not None:
                query = query.where(col(getattr(Sample, name)) == value)
        return await reply.page(session, query, filters)

    @extra.post("/samples", response_model=SampleRead, status_code=201)
    async def create_sample(data: SampleCreate, session: SessionDep) -> Sample:
        sample = Sample(**data.model_dump())
        session.add(sample)
        await session.commit()
        return sample

    @extra.get("/samples/{sample_id}", response_model=SampleRead)
    async def read_sample(sample_id: Id, session: SessionDep) -> Sample:
        return await session.get_one(Sample, sample_id)

    @extra.patch("/samples/{sample_id}", response_model=SampleRead)
    async def update_sample(sample_id: Id, data: SampleUpdate, session: SessionDep) -> Sample:
        sample = await session.get_one(Sample, sample_id, with_for_update=True)
        sample.sqlmodel_update(data.changes(sample))
        await session.commit()
        return sample

    yield "/samples"
    await pools.dispose()
    SQLModel.metadata.tables["samples"].drop(engine)
    engine.dispose()


def as_json(data: object) -> dict[str, Any]:
    """A body in ASCII: httpx cannot send a lone surrogate otherwise."""
    return {"content": json.dumps(data), "headers": {"content-type": "application/json"}}


async def assert_round_trip(client: httpx.AsyncClient, path: str, data: dict[str, Any]) -> None:
    """Stores what is accepted of the data, by POST and by PATCH, and sees the same everywhere."""
    created = await client.post(path, **as_json(data))
    if created.status_code == 422:
        refused = {error["loc"][1] for error in created.json()["errors"]}
        data = {name: value for name, value in data.items() if name not in refused}
        created = await client.post(path, **as_json(data))
    assert created.status_code == 201, created.text
    row = created.json()
    shown = {name: row[name] for name in data}
    assert {name: meaning(value, name) for name, value in shown.items()} == {
        name: meaning(value, name) for name, value in data.items()
    }
    empty = (await client.post(path, **as_json({}))).json()
    changed = await client.patch(f"{path}/{empty['id']}", **as_json(data))
    assert changed.json() == row | {"id": empty["id"]}
    for answer in (created, changed):
        shown = answer.json()
        read = await client.get(f"{path}/{shown['id']}", headers=PLAIN)
        assert read.text == answer.text
        assert read.headers["etag"] == answer.headers["etag"]
        (listed,) = (await client.get(f"{path}?id={shown['id']}")).json()
        assert json.dumps(listed) == json.dumps(shown)
    for values in (row, data):
        filters = {name: values[name] for name in FILTERS if row[name] is not None}
        found = (await client.get(path, params=filters | {"limit": 100})).json()
        assert found if filters else True
        assert all(other[name] == row[name] for other in found for name in filters)


def meaning(value: Any, name: str) -> Any:
    """The same for whatever stands for the same: moments, addresses in any case and coding."""
    if name == "email" and value is not None:
        value = value.strip()  # as pydantic does
    if name in ("money", "cost", "rate") and value is not None:
        return Decimal(value)
    if name == "code" and value is not None:
        return value.lower()
    if name == "data":
        return json.dumps(value)  # with the order of its keys
    if isinstance(value, str) and "@" in value:
        with suppress(EmailNotValidError):  # a text
            return validate_email(value, check_deliverability=False).normalized.lower()
    if isinstance(value, str) and value[10:11] in ("T", "t", " ") and value[:4].isdigit():
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    return value


ENDS: dict[str, list[Any]] = {
    "text": ["", " ", "\u0001", "'\";--\\%_", "ἀΩ", "é", "é", "\U0010ffff", "\ufffe", "x" * 9000],
    "whole": [-MAX_INT, MAX_INT, 0, -0.0, 1.0, 2**31, 2**32],
    "reference": [1, 2**31, MAX_INT],
    "flag": [True, False],
    "email": ["ΑΣ@example.com", "İ@example.com", "ß@ß.example.com", f"{'a' * 64}@{'b' * 63}.com"],
    "day": ["0001-01-01", "9999-12-31", "2000-02-29"],
    "instant": [
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
        "0001-01-01T14:00:00+14:00",
        "9999-12-31T09:59:59-14:00",
        "1883-11-18T12:03:57-05:00",
        "2030-01-31t12:00:00z",
        "2030-01-31 12:00:00.5+05:30",
        "1970-01-01T00:00:00.000001Z",
    ],
    "money": ["0", "-0", "-0.00", "19.9", "-3", "007.50", "9999999999999.99", "-9999999999999.99"],
    "cost": ["0.01", "-0.01", "9999999999999.99"],
    "rate": ["0.000000001", "-9.999999999", "0", "1.5"],
    "code": ["00000000-0000-0000-0000-000000000000", "FFFFFFFF-ffff-FFFF-ffff-FFFFFFFFFFFF"],
    "data": [
        {},
        [],
        {"b": 1, "a": [None, 1.0, -0.0, 0.1, 1e22, 5e-324, -1.7e308], "": "\U0010ffff\u0001"},
        [MAX_INT, -MAX_INT],
        json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH),
    ],
    "state": ["draft", "sent"],
    "url": [
        "https://example.com",
        "HTTP://EXAMPLE.com:80/%7Ea/../b?c=d#e",
        "http://[::1]/",
        "https://ü.example/ü",
        f"https://example.com/{'a' * 1980}",
    ],
}


async def test_value_at_its_ends_is_shown_as_it_was_sent(
    client: httpx.AsyncClient, samples: str
) -> None:
    for number in range(max(map(len, ENDS.values()))):
        data = {name: values[number % len(values)] for name, values in ENDS.items()}
        await assert_round_trip(client, samples, data)


@pytest.mark.parametrize("text", ["\x00", "a\x00b", "\ud800", "\udfff\ud800"])
async def test_text_that_no_database_stores_is_refused(
    client: httpx.AsyncClient, samples: str, text: str
) -> None:
    assert_problem(await client.post(samples, **as_json({"text": text})), 422, ("body", "text"))


REFUSED: dict[str, list[Any]] = {
    "money": [
        *(
            "",
            "1e5",
            "1E5",
            " 5 ",
            "5 ",
            "5\n",
            "1_000",
            "1,000",
            "19,90",
            "٣",
            "+5",
            "NaN",
            "Infinity",
        ),
        *(
            "-",
            ".",
            ".5",
            "5.",
            "1.005",
            "19.900",
            "99999999999999",
            "0x10",
            "1/2",
            "€5",
            "--5",
            "\N{MINUS SIGN}5",
        ),
        *(5, 19.9, True, [], {}, float("nan"), "9" * 5000),
    ],
    "cost": [None, "1.005"],
    "rate": ["10", "0.0000000001"],
    "code": [
        *("", "0", 0, "00000000000070008000000000000000", "{00000000-0000-7000-8000-000000000000}"),
        *("urn:uuid:00000000-0000-7000-8000-000000000000", "0000000g-0000-7000-8000-000000000000"),
        *(" 00000000-0000-7000-8000-000000000000", "00000000-0000-7000-8000-000000000000\n"),
    ],
    "data": [
        *("", "a", 0, 1.0, False, "\0"),
        *(
            [float("nan")],
            [float("inf")],
            {"a": -float("inf")},
            [10**400],
            {"a": MAX_INT + 1},
            [-MAX_INT - 1],
        ),
        *(["\0"], ["a\udfff"], {"\0": 1}, {"\ud800": 1}, {"a": {"b": ["\0"]}}),
        *(json.loads("[" * n + "]" * n) for n in (MAX_DEPTH + 1, 200, 400)),
    ],
    "state": ["", "Draft", "draft ", "lost", 1, ["draft"]],
    "url": [
        *(
            "",
            "example.com",
            "//example.com",
            "ftp://example.com",
            "javascript:alert(1)",
            "https://",
        ),
        *(
            " https://example.com",
            "https://example.com ",
            "https://a b.example",
            "https:example.com",
        ),
        *(
            "https://example.com/\n",
            "https://example.com/\0",
            "https:\\\\example.com",
            "http://a:99999/",
        ),
        *("https://example.com/\ud800", f"https://example.com/{'a' * 1981}", "http://[::1", 5),
    ],
}


@pytest.mark.parametrize("name", REFUSED)
async def test_value_that_would_not_be_shown_as_sent_is_refused(
    client: httpx.AsyncClient, samples: str, name: str
) -> None:
    for value in REFUSED[name]:
        response = await client.post(samples, **as_json({name: value}))
        assert_problem(response, 422, ("body", name))
        if name in FILTERS and isinstance(value, str) and "\ud800" not in value:
            response = await client.get(samples, params={name: value})
            assert_problem(response, 422, ("query", name))
    assert (await client.get(samples)).json() == []


async def test_decimal_is_shown_with_all_its_places(
    client: httpx.AsyncClient, samples: str
) -> None:
    for sent, shown in (("19.9", "19.90"), ("-3", "-3.00"), ("-0", "0.00"), ("007.5", "7.50")):
        row = (await client.post(samples, json={"money": sent})).json()
        assert row["money"] == shown
        assert row["cost"] == "0.00"  # the default
        assert (await client.get(f"{samples}?money={sent}")).json() == [row]
    row = (await client.post(samples, json={"rate": "0.00000001"})).json()
    assert row["rate"] == "0.000000010"


AMOUNTS = ["10.00", "9.50", None, "-0.01", "9.50", None, "100.00", "9.49", "-20.00", "0.00"]


@pytest.mark.parametrize("limit", [1, 3])
async def test_list_is_sorted_by_a_decimal(
    client: httpx.AsyncClient, samples: str, limit: int
) -> None:
    rows = [
        (await client.post(samples, json={"money": amount, "cost": amount or "0"})).json()
        for amount in AMOUNTS
    ]
    rows.sort(key=lambda row: (Decimal(row["cost"]), row["id"]))
    page = f"{samples}?limit={limit}"
    assert await walk(client, f"{page}&sort=cost") == rows
    assert await walk(client, f"{page}&sort=cost&order=desc") == rows[::-1]
    rows.sort(key=lambda row: (row["money"] is None, Decimal(row["money"] or 0), row["id"]))
    assert await walk(client, f"{page}&sort=money") == rows
    assert await walk(client, f"{page}&sort=money&order=desc") == rows[::-1]
    assert (await client.get(f"{samples}?sort=money&offset=3")).json() == rows[3:]


@pytest.mark.parametrize("value", ["1.005", "1e5", 5, "NaN", "x", True])
@pytest.mark.parametrize("sort", ["cost", "money"])
async def test_cursor_with_another_decimal_is_refused(
    client: httpx.AsyncClient, samples: str, sort: str, value: Any
) -> None:
    text = json.dumps([sort, "asc", value, 1]).encode()
    cursor = urlsafe_b64encode(text).decode().rstrip("=")
    response = await client.get(f"{samples}?sort={sort}&cursor={cursor}")
    assert_problem(response, 422, ("query", "cursor"))


async def test_list_is_sorted_by_words_and_uuids(client: httpx.AsyncClient, samples: str) -> None:
    rows = [
        (await client.post(samples, json={"state": state, "code": str(uuid7())})).json()
        for state in ("sent", "draft", "sent", "draft")
    ]
    assert await walk(client, f"{samples}?sort=code&order=desc&limit=1") == rows[::-1]
    rows.sort(key=lambda row: (row["state"], row["id"]))
    assert await walk(client, f"{samples}?sort=state&limit=1") == rows


async def test_database_calculates_with_decimals(url: URL, samples: str) -> None:
    engine = create_engine(url)
    money = col(Sample.money)
    with Session(engine) as session:
        amounts = ("0.10", "0.20", "-5.00")
        session.add_all(Sample(money=Decimal(amount), whole=3) for amount in amounts)
        session.flush()
        total, product, twice, largest = session.execute(
            select(
                func.sum(money),
                func.sum(money * col(Sample.whole)),
                func.sum(money * 2),
                func.max(money),
            )
        ).one()
        assert [str(total), str(product), str(twice)] == ["-4.70", "-14.10", "-9.40"]
        assert str(largest) == "0.20"
        assert session.scalars(
            select(money).where(money + Decimal("0.1") > Decimal("0.2"))
        ).all() == [Decimal("0.20")]
    engine.dispose()


@pytest.mark.parametrize("amount", [Decimal("1.005"), 0.1, Decimal(10) ** 13, Decimal("Infinity")])
async def test_database_does_not_round(url: URL, samples: str, amount: Any) -> None:
    engine = create_engine(url)
    with Session(engine) as session:
        session.add(Sample(money=amount))
        with pytest.raises(StatementError, match="decimal"):
            session.flush()
    engine.dispose()


async def test_database_refuses_other_words(url: URL, samples: str) -> None:
    engine = create_engine(url)
    with Session(engine) as session:
        session.add(Sample(state="lost"))  # type: ignore[arg-type]
        with pytest.raises(IntegrityError, match="ck_samples_state"):
            session.flush()
    engine.dispose()


def test_uuid7_is_ordered_by_time() -> None:
    before = time.time_ns() // 1_000_000
    ids = []
    for _ in range(100):
        ids.append(uuid7())
        start = time.time_ns()
        while time.time_ns() < start + 1000:  # two in a quarter of a microsecond have no order
            pass
    assert ids == sorted(ids)
    assert {(one.version, one.variant) for one in ids} == {(7, RFC_4122)}
    assert before <= ids[0].int >> 80 <= ids[-1].int >> 80 <= time.time_ns() // 1_000_000


def test_fields_document_what_they_accept() -> None:
    fields = SampleFilter.model_json_schema()["properties"]
    amount = {"type": "string", "pattern": r"^-?[0-9]{1,13}(\.[0-9]{1,2})?$", "examples": ["1.50"]}
    assert fields["money"].items() >= amount.items()
    assert fields["code"].items() >= {"type": "string", "format": "uuid"}.items()
    assert fields["state"].items() >= {"type": "string", "enum": ["draft", "sent"]}.items()
    assert fields["url"].items() >= {"type": "string", "format": "iri", "maxLength": 2000}.items()
    shown = SampleRead.model_json_schema(mode="serialization")["properties"]
    assert shown["cost"].items() >= amount.items()
    (data, _) = SampleCreate.model_json_schema()["properties"]["data"]["anyOf"]
    assert data == {"type": ["object", "array"]}


INSTANTS = st.datetimes(
    timezones=st.builds(lambda m: timezone(timedelta(minutes=m)), st.integers(-1439, 1439))
).map(datetime.isoformat)
LETTERS = st.characters()
ADDRESSES = st.emails() | st.builds("{}@example.com".format, st.text(LETTERS, max_size=70))
DECIMALS = (
    st.decimals(allow_nan=True, allow_infinity=True).map(str)
    | st.decimals(-20, 10**14, places=2).map(str)
    | st.decimals(-20, 20, places=9).map(str)
    | st.text(st.characters(categories=["Nd"]), max_size=5)
    | st.integers()
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(LETTERS, max_size=5)
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(LETTERS, max_size=5), inner),
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": st.text(LETTERS),
    "whole": st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False),
    "reference": st.integers(0, 2**64),
    "flag": st.booleans(),
    "email": ADDRESSES,
    "day": st.dates().map(date.isoformat),
    "instant": INSTANTS,
    "money": DECIMALS,
    "cost": DECIMALS,
    "rate": DECIMALS,
    "code": st.uuids().map(str) | st.text(LETTERS, max_size=36),
    "data": ANY_JSON,
    "state": st.sampled_from(["draft", "sent"]) | st.text(LETTERS),
    "url": st.from_regex(r"\Ahttps?://[a-z.]{1,20}(:[0-9]{1,6})?(/.{0,20})?\Z") | st.text(LETTERS),
}


@pytest.mark.slow
@hypothesis_settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.fixed_dictionaries({}, optional=VALUES))
async def test_whatever_is_accepted_is_shown_as_it_was_sent(
    client: httpx.AsyncClient, samples: str, data: dict[str, Any]
) -> None:
    await assert_round_trip(client, samples, data)


class LeafRead(SQLModel):
    at: datetime
    text: str


class TreeRead(SQLModel):
    id: int
    label: str
    planted_at: datetime
    felled_at: datetime | None
    height: float
    green: bool
    price: Decimal
    paid: Money
    share: Rate
    felled_on: date | None
    first: LeafRead
    leaves: list[LeafRead]

    @computed_field
    def title(self) -> str:
        return f"{self.label} {self.id}"


class TreeUpdate(Update[TreeRead]):
    label: Text = LEFT_OUT


MOMENT = datetime(2030, 1, 31, 10, 0, 0, 123456, UTC)
LEAF = {"at": MOMENT, "text": "green"}
TREE = TreeRead.model_validate(
    {
        "id": 1,
        "label": "Oak",
        "planted_at": MOMENT,
        "felled_at": None,
        "height": 1.0,
        "green": True,
        "price": "9.90",
        "paid": "9.90",
        "share": "0.00000001",
        "felled_on": None,
        "first": LEAF,
        "leaves": [LEAF, LEAF],
    }
)
SHOWN = TREE.model_dump(mode="json")
CUT = {"at": "2030-01-31T10:00:00.123Z", "text": "green"}


def change_tree(**data: Any) -> dict[str, Any]:
    """The changes of a body, which FastAPI reads in this way."""
    return TreeUpdate.model_validate(json.loads(json.dumps(data))).changes(TREE)


@pytest.mark.parametrize(
    "same",
    [
        SHOWN,
        {"id": 1.0, "height": 1},
        {"planted_at": "2030-01-31T10:00:00.123Z"},
        {"planted_at": "2030-01-31T10:00:00.123000Z"},
        {"planted_at": "2030-01-31 11:00:00.123456+01:00"},
        {"planted_at": "2030-01-30t21:30:00.123-12:30"},
        {"first": CUT},
        {"leaves": [CUT, SHOWN["first"]]},
    ],
    ids=str,
)
def test_update_takes_what_is_shown(same: dict[str, Any]) -> None:
    assert change_tree(**same | {"label": "Elm"}) == {"label": "Elm"}


DEEP: Any = json.loads("[" * 400 + "]" * 400)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        *product(["id"], [None, True, "1", 2, 1.5, 10**400, [1], {"id": 1}, DEEP]),
        *product(["planted_at"], [5, 1896084000.123456, None, True, [], DEEP]),
        ("planted_at", "2030-01-31T10:00:00.124Z"),
        ("planted_at", "2030-01-31T10:00:00.123999Z"),
        ("planted_at", "2030-01-31T10:00:00Z"),
        ("planted_at", "2030-01-31T10:00:00.123"),
        ("planted_at", "2030-01-31T10:00:00.123\ud800"),
        ("planted_at", "2030-01-31T10:00:00.123Z" * 40_000),
        ("felled_at", "2030-01-31T10:00:00.123Z"),
        ("height", "1.0"),
        ("height", float("nan")),
        *product(["green"], [1, "true", False]),
        *product(["price", "paid"], [9.9, "9.9"]),
        ("share", "1E-8"),
        ("felled_on", "2030-01-31"),
        *product(["first"], [None, [], [SHOWN["first"]], "\ud800", {"\ud800": 1}, DEEP]),
        ("first", {"at": SHOWN["planted_at"]}),
        ("first", SHOWN["first"] | {"more": 1}),
        ("first", SHOWN["first"] | {"text": "brown"}),
        ("first", SHOWN["first"] | {"at": None}),
        ("title", "Oak"),
        ("leaves", []),
        ("leaves", [CUT]),
        ("leaves", {"0": CUT, "1": CUT}),
        ("leaves", [CUT, CUT, CUT]),
    ],
    ids=lambda value: str(value)[:40].encode("unicode_escape").decode(),
)
def test_update_refuses_what_differs_from_what_is_shown(name: str, other: object) -> None:
    with pytest.raises(RequestValidationError) as refused:
        change_tree(**{name: other, "label": "Elm"})
    expected = {"loc": ("body", name), "msg": "this cannot be changed", "type": "read_only"}
    assert refused.value.errors() == [expected]


def test_update_names_each_field_that_differs() -> None:
    with pytest.raises(RequestValidationError) as refused:
        change_tree(leaves=5, height=1, id=5)
    assert [error["loc"] for error in refused.value.errors()] == [
        ("body", "id"),
        ("body", "leaves"),
    ]


def test_update_refuses_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        change_tree(lable="Elm")


def test_update_documents_what_is_read_only_with_the_type_that_is_shown() -> None:
    fields = TreeUpdate.model_json_schema()["properties"]
    shown = TreeRead.model_json_schema(mode="serialization")["properties"]
    assert list(fields) == list(shown)
    assert "readOnly" not in fields.pop("label")
    for name in ("id", "planted_at", "felled_at", "height", "green", "paid", "felled_on"):
        assert fields[name] == shown[name] | {"readOnly": True}
    assert all(field["readOnly"] is True for field in fields.values())
    assert "default" not in str(fields)
    assert "required" not in TreeUpdate.model_json_schema()


async def test_flag_in_a_query_is_true_or_false(client: httpx.AsyncClient, samples: str) -> None:
    rows = [(await client.post(samples, json={"flag": flag})).json() for flag in (True, False)]
    assert (await client.get(f"{samples}?flag=true")).json() == rows[:1]
    assert (await client.get(f"{samples}?flag=false")).json() == rows[1:]
    for value in ("", "1", "0", "yes", "on", "t", "True", "FALSE", "null", " true"):
        response = await client.get(samples, params={"flag": value})
        assert_problem(response, 422, ("query", "flag"))
    assert SampleFilter.model_json_schema()["properties"]["flag"].items() >= {("type", "boolean")}


OTHER_SETTINGS = {
    "timezone": "America/New_York",
    "datestyle": "German",
    "client_encoding": "LATIN1",
    "intervalstyle": "sql_standard",
    "bytea_output": "escape",
}


@pytest.fixture
def foreign(url: URL, postgres: Postgres) -> Iterator[None]:
    """Gives the database other defaults than ours."""
    for name, value in OTHER_SETTINGS.items():
        postgres.execute(f"ALTER DATABASE {url.database} SET {name} = '{value}'")
    yield
    postgres.execute(f"ALTER DATABASE {url.database} RESET ALL")


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_server_with_other_settings_shows_the_same(
    foreign: None, client: httpx.AsyncClient, samples: str
) -> None:
    for number in range(len(ENDS["instant"])):
        data = {field: values[number % len(values)] for field, values in ENDS.items()}
        await assert_round_trip(client, samples, data)


@pytest.mark.parametrize("value", ["-1", "-0", "-0.01", "1e5", " 5 ", "٣", "1.234", 5, 1.5])
def test_price_that_is_none_is_refused(value: object) -> None:
    class Offer(SQLModel):
        price: Price

    with pytest.raises(ValidationError):
        Offer.model_validate({"price": value})
    pattern = Offer.model_json_schema()["properties"]["price"]["pattern"]
    assert not re.search(pattern, str(value)) or not isinstance(value, str)
    assert Offer.model_validate({"price": "19.9"}).model_dump(mode="json") == {"price": "19.90"}


class EventRead(Read):
    id: int
    at: datetime | None


def test_read_schemas_are_made_without_init_in_python() -> None:
    adapter = TypeAdapter(list[EventRead])
    rows = [{"id": number, "at": datetime.now(UTC)} for number in range(3)]
    called = set()
    sys.setprofile(lambda frame, *_: called.add(frame.f_code.co_name))
    try:
        events = adapter.validate_python(rows)
    finally:
        sys.setprofile(None)
    assert [event.model_dump() for event in events] == rows
    assert isinstance(events[0], SQLModel)
    assert "__init__" not in called


def test_read_schemas_can_be_made_by_hand() -> None:
    event = EventRead(id=1, at=None)
    assert event == EventRead.model_validate({"id": 1, "at": None})
    assert event.model_copy(update={"id": 2}).model_fields_set == {"id", "at"}
    wrong: Any = {"id": "one", "at": None}
    with pytest.raises(ValidationError):
        EventRead(**wrong)
