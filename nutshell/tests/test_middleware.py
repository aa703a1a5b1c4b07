"""The edge of the app: request ids, the log's line, CORS, and answers that break off."""

import asyncio
import json
import logging
import re
import sys
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from starlette.types import Message

from nutshell.tests.fixtures import assert_problem, create
from nutshell.app import create_app
from nutshell.log import JsonFormatter, request_id
from nutshell.settings import settings
from nutshell.tests.asgi import call, make_scope

ORIGIN = "https://app.example.com"


async def test_sane_request_id_is_kept_and_any_other_replaced(client: httpx.AsyncClient) -> None:
    kept = await client.get("/healthz", headers={"x-request-id": "trace-1.a_B"})
    assert kept.headers["x-request-id"] == "trace-1.a_B"
    for odd in ("", "a b", "x" * 65, "\xe9", "a@b"):
        made = await client.get("/healthz", headers=[(b"x-request-id", odd.encode("latin-1"))])
        assert re.fullmatch(r"[0-9a-f]{32}", made.headers["x-request-id"])


async def test_each_request_has_a_line_in_the_log(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "nutshell.middleware"):
        await client.get("/books?secret=sesame")
        await client.head("/nowhere")
        await client.get("/" + "a" * 60_000)
    first, second, third = (record.getMessage() for record in caplog.records)
    assert re.fullmatch(r"GET /books 422 \d+\.\d ms", first)
    assert re.fullmatch(r"GET /a{199} 404 \d+\.\d ms", third), "a bounded path"
    assert re.fullmatch(r"HEAD /nowhere 404 \d+\.\d ms", second)


async def test_answer_that_breaks_off_is_no_second_answer(app: FastAPI, extra: FastAPI) -> None:
    @extra.get("/broken", response_class=StreamingResponse)
    async def break_off() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one"
            raise RuntimeError("broken off")

        return StreamingResponse(parts())

    with pytest.raises(RuntimeError, match="broken off"):
        await call(app, "GET", "/broken")


async def test_cors_answers_preflights_and_defects_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settings, "cors_origins", [ORIGIN])
    app = create_app("Library", summary="With CORS.")

    @app.get("/defect")
    async def fail() -> None:
        raise RuntimeError

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        ask = {"origin": ORIGIN, "access-control-request-method": "PATCH"}
        with caplog.at_level(logging.INFO, "nutshell.middleware"):
            preflight = await client.options("/defect", headers=ask)
        assert preflight.status_code == 200
        assert "PATCH" in preflight.headers["access-control-allow-methods"]
        assert "x-request-id" in preflight.headers
        assert caplog.records[-1].getMessage().startswith("OPTIONS /defect 200")
        defect = await client.get("/defect", headers={"origin": ORIGIN})
        assert defect.status_code == 500
        assert defect.headers["access-control-allow-origin"] == ORIGIN
        assert "ETag" in defect.headers["access-control-expose-headers"]
        other = await client.get("/healthz", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_body_has_a_limit_of_fields(client: httpx.AsyncClient) -> None:
    few = await client.post("/books", json={f"field{number}": 1 for number in range(4_000)})
    assert few.status_code == 422
    many = {f"field{number}": 1 for number in range(80_000)}
    for body in (many, [many]):
        began = time.process_time()
        answer = await client.post("/books", json=body)
        assert_problem(answer, 413)
        assert time.process_time() - began < 2
    text = "".join('": ' for _ in range(3_000))
    assert (await client.post("/books", json={"title": "a", "text": text})).status_code == 201


async def test_line_in_the_log_is_bounded_whatever_the_method(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "nutshell.middleware"):
        await client.request("A" * 10_000, "/books")
    assert re.fullmatch(r"A{200} /books 405 \d+\.\d ms", caplog.records[-1].getMessage())


@pytest.mark.parametrize(
    ("header", "compressed"),
    [
        ("gzip", True),
        ("GZIP;q=0.5, br", True),
        ("br;q=1.0, *;q=0.1", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("*;q=0", False),
        ("notgzipped", False),
        ("", False),
    ],
)
async def test_answer_is_compressed_for_those_who_accept_it(
    client: httpx.AsyncClient, header: str, compressed: bool
) -> None:
    await create(client, "/books", title="Notes", text="a" * 3000)
    for path in ("/books", "/docs/swagger-ui.css"):
        answer = await client.get(path, headers={"accept-encoding": header})
        assert answer.status_code == 200
        assert ("content-encoding" in answer.headers) == compressed


async def test_health_checks_stay_out_of_the_log_if_asked(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.INFO, "nutshell.middleware"):
        await client.get("/healthz")
        monkeypatch.setattr(settings, "log_health", False)
        for path in ("/healthz", "/readyz", "/nowhere"):
            await client.get(path)
    logged = [record.getMessage().split()[1] for record in caplog.records]
    assert logged == ["/healthz", "/nowhere"]


async def test_line_of_a_defect_has_its_cause(
    client: httpx.AsyncClient, extra: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    @extra.get("/broken")
    async def break_down() -> None:
        raise KeyError("shelf")

    assert (await client.get("/broken")).status_code == 500
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage() == "GET failed: KeyError: 'shelf'"
    assert record.exc_info


@pytest.mark.usefixtures("pools")
async def test_body_that_comes_a_little_later_is_read(app: FastAPI) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b'{"title": "a"}'}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", b"14")]
    await app(make_scope("POST", "/books", headers), receive, send)
    assert sent[0]["status"] == 201


@pytest.mark.parametrize("more", [[], [(b"idempotency-key", b"one")]], ids=["plain", "keyed"])
async def test_body_that_breaks_off_is_a_bad_request_in_the_log(
    app: FastAPI, caplog: pytest.LogCaptureFixture, more: list[tuple[bytes, bytes]]
) -> None:
    received = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Message:
        return received.pop() if received else {"type": "http.disconnect"}

    async def send(message: Message) -> None: ...

    headers = [(b"content-type", b"application/json"), (b"content-length", b"14"), *more]
    with caplog.at_level(logging.INFO, "nutshell.middleware"):
        await app(make_scope("POST", "/books", headers), receive, send)
    assert re.fullmatch(r"POST /books 400 \d+\.\d ms", caplog.records[-1].getMessage())


async def test_json_line_has_the_call_and_no_address(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.perf_counter()
    with caplog.at_level(logging.INFO, "nutshell.middleware"):
        await client.get('/books/"ada@example.com\\"', headers={"x-request-id": "one"})
    elapsed = (time.perf_counter() - began) * 1000
    (record,) = caplog.records
    token = request_id.set("one")
    line = JsonFormatter().format(record)
    request_id.reset(token)
    assert "\n" not in line
    assert "ada" not in line
    found = json.loads(line)
    assert (found["level"], found["severity"], found["request_id"]) == ("info", "INFO", "one")
    assert (found["method"], found["status"]) == ("GET", 422)
    assert found["path"] in found["message"]
    assert 0 < found["ms"] < elapsed
    try:
        raise ValueError("ada@example.com")
    except ValueError:
        failed = logging.LogRecord("a", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    assert "ValueError: (e-mail)" in json.loads(JsonFormatter().format(failed))["exception"]


@pytest.mark.parametrize("stripped", [True, False])
async def test_root_path_is_before_every_reference(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, stripped: bool
) -> None:
    monkeypatch.setattr(settings, "root_path", "/api")
    prefix = "" if stripped else "/api"
    for title in ("a", "b"):
        created = await client.post(f"{prefix}/books", json={"title": title})
        assert created.headers["location"].startswith("/api/books/")
    listed = await client.get(f"{prefix}/books?limit=1")
    assert listed.headers["link"].startswith("</api/books?limit=1&after=")
    home = await client.get(f"{prefix}/")
    assert home.headers["location"] == "/api/docs"
    assert '"/api/docs/swagger-ui.css' in (await client.get(f"{prefix}/docs")).text
    document = (await client.get(f"{prefix}/openapi.json")).json()
    assert {"url": "/api"} in document["servers"]
