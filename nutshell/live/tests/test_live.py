"""The live view's data: what it notes of each request, and puts into words."""

import asyncio
import json
import logging
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Annotated, Any, cast

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from sqlalchemy import URL, event, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell.tests import library
from nutshell.tests.fixtures import Pools, create
from nutshell import database, engines
from nutshell.app import create_app
from nutshell.database import SessionDep, SnapshotDep, background_session
from nutshell.live import conflicts, feed, observer, view
from nutshell.live.locks import watch_locks
from nutshell.live.trace import Trace
from nutshell.settings import settings
from nutshell.tests.library import Book, Shelf
from nutshell.tests.postgres import Postgres, blocked_writes


@pytest.fixture
def app(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    monkeypatch.setattr(settings, "trace", True)
    app = create_app("Library", summary="Watched.")
    app.router.routes.extend(library.app.router.routes)
    yield app
    event.remove(Session, "after_begin", observer.count_session)
    logging.getLogger("nutshell").removeHandler(observer.log_handler)
    conflicts.stop()
    conflicts.changes.clear()
    conflicts.commits.clear()
    feed.recent.clear()
    view.called.clear()


def newest() -> dict[str, Any]:
    return feed.show(feed.recent[-1])


def kinds() -> list[str]:
    return [span["kind"] for span in newest()["spans"]]


def only(kind: str) -> dict[str, Any]:
    (span,) = [span for span in newest()["spans"] if span["kind"] == kind]
    return cast(dict[str, Any], span)


def warnings() -> str:
    return " ".join(newest()["warnings"])


def notes() -> str:
    return " ".join(newest()["notes"])


async def test_spans_are_noted_in_order_and_lie_in_each_other(client: httpx.AsyncClient) -> None:
    book = await create(client, "/books", title="Notes")
    assert kinds() == ["session", "connect", "transaction", "begin", "sql", "commit", "sent"]
    session, transaction, insert = only("session"), only("transaction"), only("sql")
    assert session["text"] == "writes"
    assert insert["text"].startswith("INSERT INTO books")
    assert "Notes" in insert["parameters"]
    assert insert["rows"] == 1
    outer = {"start": 0, "end": newest()["total"]}
    for inner in (session, transaction, insert):
        assert outer["start"] <= inner["start"] <= inner["end"] <= outer["end"]
        outer = inner
    assert transaction["end"] == only("commit")["end"]
    assert session["end"] <= only("sent")["start"]

    await client.get("/books?limit=1")
    assert (newest()["path"], newest()["route"]) == ("/books?limit=1", "/books")
    path = f"/books/{book['id']}"
    response = await client.get(path)
    assert kinds() == ["session", "connect", "sql", "sent"]
    assert (newest()["path"], newest()["route"]) == (path, "/books/{book_id}")
    timing = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert timing.keys() == {"pool", "sql", "commit", "app"}

    await client.patch(f"/books/{book['id']}", json={"title": "x"}, headers={"if-match": '"x"'})
    assert kinds() == ["session", "connect", "transaction", "begin", "sql", "rollback", "sent"]
    await client.post("/books/batch", json=[{"title": "a" * 100}] * 3)
    assert kinds().count("commit") == 1
    await client.get("/healthz")
    assert kinds() == ["sent"]
    assert warnings() == ""


async def test_spans_name_the_line_that_asked_the_database(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    @app.get("/through-a-function")
    async def read_through_a_function(session: SessionDep) -> None:
        await session.run_sync(lambda session: session.get(Shelf, 1))

    await create(client, "/books", title="Notes")
    for kind, code in (("sql", "await session.commit()"), ("commit", "await session.commit()")):
        assert re.fullmatch(r"nutshell/tests/library.py:\d+", only(kind)["line"])
        assert only(kind)["code"] == code
    await client.get("/through-a-function")
    assert "lambda session" in only("sql")["code"]
    await client.patch("/books/1", json={"title": "x"}, headers={"if-match": '"x"'})
    assert only("rollback")["line"].startswith("nutshell/database.py:")


async def test_first_call_of_a_route_and_a_replay_are_named(client: httpx.AsyncClient) -> None:
    for name in ("one", "one", "two"):
        await client.post("/books", json={"title": "Card"}, headers={"idempotency-key": name})
        assert warnings() == ""
        assert kinds().count("commit") == 1
    first, replay, second = [" ".join(trace.notes) for trace in feed.recent]
    assert "first call of its route" in first
    assert "Replayed from its key" in replay
    assert second == ""


async def test_refused_statement_is_marked_as_failed(client: httpx.AsyncClient) -> None:
    await create(client, "/shelves", label="Top")
    await client.post("/shelves", json={"label": "Top"})
    assert only("sql")["failed"]
    assert re.search(r"(?i)unique constraint", only("sql")["error"])
    assert only("transaction")["end"] == only("rollback")["end"]


async def test_failure_comes_with_its_exception(client: httpx.AsyncClient, app: FastAPI) -> None:
    @app.get("/broken")
    async def break_it() -> None:
        raise ValueError("a part is missing")

    assert (await client.get("/broken")).status_code == 500
    assert newest()["log"] == ["ValueError: a part is missing"]
    await client.get("/books")
    assert newest()["log"] == []


@pytest.mark.torn
async def test_mistakes_are_put_into_words(client: httpx.AsyncClient, app: FastAPI) -> None:
    @app.post("/by-halves")
    async def commit_by_halves(session: SessionDep) -> None:
        for title in ("one", "two"):
            session.add(Book(title=title))
            await session.commit()

    @app.get("/one-by-one")
    async def read_one_by_one(session: SessionDep) -> None:
        for shelf_id in range(1, 6):
            await session.get(Shelf, shelf_id)

    @app.get("/outliving")
    async def outlive(session: Annotated[AsyncSession, Depends(database.get_session)]) -> None:
        await session.get(Shelf, 1)

    @app.get("/two")
    async def use_two(session: SessionDep) -> None:
        await session.get(Shelf, 1)
        async with AsyncSession(database.writer.engine) as other:
            await other.get(Shelf, 1)

    for method, path, words in [
        ("POST", "/by-halves", "2 COMMITs"),
        ("GET", "/one-by-one", "ran 5 times (N+1), from nutshell/live/tests/test_live.py:"),
        ("GET", "/outliving", "outlived its response"),
        ("GET", "/two", "2 sessions"),
    ]:
        assert (await client.request(method, path)).status_code == 200
        assert words in warnings()
    assert [span["text"] for span in newest()["spans"] if span["kind"] == "session"] == [
        "reads",
        "writes",
    ]
    await client.get("/books")
    assert warnings() == ""


@pytest.mark.torn
async def test_forgotten_commit_and_torn_read_are_put_into_words(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    @app.post("/forgetful")
    async def forget_commit(session: SessionDep) -> None:
        session.add(Book(title="forgotten"))
        await session.flush()

    @app.get("/torn")
    async def read_twice(session: SessionDep) -> None:
        for _ in range(2):
            await session.exec(select(Book))

    @app.get("/whole")
    async def read_one_moment(session: SnapshotDep) -> None:
        for _ in range(2):
            await session.exec(select(Book))

    await client.post("/forgetful")
    assert "POST /forgetful changed something and did not commit it" in newest()["log"][0]
    await client.get("/torn")
    assert "GET /torn sent 2 statements" in warnings()
    assert newest()["log"] == []  # it is said once, and is no error
    await client.get("/whole")
    assert newest()["log"] == []
    kinds = [span["kind"] for span in newest()["spans"]]
    assert kinds == ["session", "connect", "transaction", "begin", "sql", "sql", "rollback", "sent"]


async def test_half_kept_is_put_into_words(client: httpx.AsyncClient, app: FastAPI) -> None:
    @app.post("/half")
    async def keep_half(session: SessionDep) -> None:
        session.add(Shelf(label="Top"))
        await session.commit()
        session.add(Shelf(label="Top"))
        await session.commit()

    assert (await client.post("/half")).status_code == 409
    assert "a part of its changes is kept" in warnings()


async def test_sharing_a_session_is_put_into_words(
    client: httpx.AsyncClient, app: FastAPI, pools: Pools
) -> None:
    shared = database.make_session(pools.writer.engine)

    @app.post("/begin")
    async def begin() -> None:
        shared.add(Shelf(label="Top"))
        await shared.flush()

    @app.post("/commit")
    async def commit() -> None:
        await shared.commit()

    await client.post("/begin")
    first = newest()["number"]
    assert "left a transaction open" in warnings()
    assert only("session")["kept"]  # its connection has not gone back
    await client.post("/commit")
    assert f"committed what it had not begun, the transaction of #{first}" in warnings()
    for kind in ("session", "transaction"):
        assert only(kind)["by"] == [first]
        assert only(kind)["start"] <= only("commit")["start"] <= only("commit")["end"]
    assert not only("session")["kept"]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_lost_connection_leaves_no_transaction_open(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    @app.post("/lost")
    async def lose_connection(session: SessionDep) -> None:
        session.add(Shelf(label="Top"))
        await session.flush()
        connection = await session.connection()
        await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    assert (await client.post("/lost")).status_code == 503
    assert only("transaction")["end"] <= only("session")["end"]
    assert warnings() == ""


async def test_turn_that_does_not_come_in_time_is_no_session(
    client: httpx.AsyncClient, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "WAIT", 0.05)
    for _ in range(pools.reader.size):
        await pools.reader.free.acquire()
    assert (await client.get("/books")).status_code == 503
    for _ in range(pools.reader.size):
        pools.reader.free.release()
    assert kinds() == ["wait", "sent"]
    assert only("wait")["failed"]
    assert "every connection stayed busy" in newest()["log"][0]


@pytest.mark.parametrize(
    ("method", "path", "pool"), [("GET", "/books", "reader"), ("PATCH", "/books/1", "writer")]
)
async def test_waiting_for_a_connection_is_seen(
    client: httpx.AsyncClient, pools: Pools, method: str, path: str, pool: str
) -> None:
    queue = getattr(pools, pool)
    for _ in range(queue.size):
        await queue.free.acquire()
    body = {"title": "Card"} if method == "PATCH" else None
    call = asyncio.create_task(client.request(method, path, json=body))
    async with asyncio.timeout(10):
        while not any(t.of("wait") for t in feed.running.values()):  # noqa: ASYNC110 (no event)
            await asyncio.sleep(0)
    await asyncio.sleep(0.02)
    (trace,) = feed.running.values()
    assert [span.kind for span in trace.spans] == ["wait"]
    assert trace.spans[0].end is None
    for _ in range(queue.size):
        queue.free.release()
    await call
    assert not feed.running
    assert only("wait")["end"] - only("wait")["start"] > 10
    assert only("session")["start"] >= only("wait")["end"]
    # On SQLite more connections would not help: there is one writer.
    one_writer = pools.writer.engine.dialect.name == "sqlite" and pool == "writer"
    assert ("one writer at a time" if one_writer else "POOL_SIZE") in warnings()


async def test_session_without_a_slot_is_seen_while_it_waits(
    client: httpx.AsyncClient, app: FastAPI, pools: Pools
) -> None:
    @app.get("/beside-the-queue")
    async def connect_beside_the_queue() -> None:
        async with pools.writer.engine.connect():
            pass

    async with AsyncExitStack() as stack:
        for _ in range(pools.writer.size):
            await stack.enter_async_context(pools.writer.engine.connect())
        call = asyncio.create_task(client.get("/beside-the-queue"))
        async with asyncio.timeout(10):
            while not any(t.of("connect") for t in feed.running.values()):  # noqa: ASYNC110 (no event)
                await asyncio.sleep(0)
        (trace,) = feed.running.values()
        assert [span.kind for span in trace.spans] == ["session", "connect"]
        assert trace.spans[1].end is None
    assert (await call).status_code == 200
    assert kinds() == ["session", "connect", "sent"]
    assert only("session")["text"] == "writes"
    assert only("connect")["end"] <= only("session")["end"] <= only("sent")["start"]


async def test_documentation_is_left_out(client: httpx.AsyncClient) -> None:
    for path in ("/docs", "/docs/swagger-ui.css", "/openapi.json"):
        await client.get(path)
    assert not feed.recent
    await client.get("/docsets")
    assert newest()["path"] == "/docsets"


async def test_work_after_the_answer_is_shown_with_its_session(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    @app.post("/with-its-own")
    async def work_with_its_own(session: SessionDep, tasks: BackgroundTasks) -> None:
        async def work() -> None:
            async with background_session() as own:
                own.add(Shelf(label="Top"))
                await own.commit()

        session.add(Book(title="Notes"))
        await session.commit()
        tasks.add_task(work)

    @app.post("/with-the-closed-one")
    async def work_with_the_closed_one(session: SessionDep, tasks: BackgroundTasks) -> None:
        async def work() -> None:
            await session.get(Shelf, 1)

        tasks.add_task(work)

    await client.post("/with-its-own")
    assert warnings() == ""
    assert "after the response was out" in notes()
    sessions = [span for span in newest()["spans"] if span["kind"] == "session"]
    assert [span["text"] for span in sessions] == ["writes", "writes"]
    assert sessions[0]["end"] <= only("sent")["start"] <= sessions[1]["start"]
    await client.post("/with-the-closed-one")
    assert "permanently closed" in newest()["log"][0]
    assert "background_session" in warnings()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_wait_for_a_row_names_the_row_and_who_holds_it(
    client: httpx.AsyncClient, app: FastAPI, shelf: dict[str, Any]
) -> None:
    locked: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    @app.patch("/slowly/{shelf_id}")
    async def change_slowly(shelf_id: int, session: SessionDep) -> None:
        row = await session.get_one(Shelf, shelf_id, with_for_update=True)
        go_on = asyncio.Event()
        locked.put_nowait(go_on)
        await go_on.wait()
        row.width = (row.width or 0) + 1
        await session.commit()

    async def waiting(*numbers: int) -> None:
        """Returns once as many requests wait, for as many others each."""
        while True:
            locks = [lock for t in feed.running.values() for lock in t.of("lock") if t.step]
            if sorted(len(lock.by) for lock in locks if lock.end is None) == list(numbers):
                return
            await asyncio.sleep(0.005)

    watcher = asyncio.create_task(watch_locks())
    calls = [asyncio.create_task(client.patch(f"/slowly/{shelf['id']}"))]
    async with asyncio.timeout(20):
        go_on = await locked.get()
        for expected in ([1], [1, 2]):
            calls.append(asyncio.create_task(client.patch(f"/slowly/{shelf['id']}")))
            await waiting(*expected)
        # The second gets the lock, and the third goes on waiting, until the second has committed.
        for expected in ([2], []):
            go_on.set()
            go_on = await locked.get()
            await waiting(*expected)
        go_on.set()
    await asyncio.gather(*calls)
    watcher.cancel()
    first, second, third = sorted(feed.recent, key=lambda trace: trace.number)[-3:]
    assert not first.of("lock")
    for trace, holders in ((second, [first]), (third, [first, second])):
        (lock,) = trace.of("lock")
        assert lock.text == f"row {shelf['id']} of shelves"
        assert lock.by == [holder.number for holder in holders]
        (select, _) = trace.of("sql")
        assert lock.end is not None
        assert select.start <= lock.start <= lock.end <= (select.end or 0)
        assert f"for the lock on row {shelf['id']} of shelves, held by #{first.number}" in " ".join(
            trace.notes
        )
        (commit,) = holders[-1].of("commit")
        assert trace.began + lock.end > holders[-1].began + commit.start


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_wait_for_a_value_that_is_not_committed_names_who_inserted_it(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    inserted, go_on = asyncio.Event(), asyncio.Event()

    @app.post("/slowly")
    async def create_slowly(session: SessionDep) -> None:
        session.add(Shelf(label="Top"))
        await session.flush()
        inserted.set()
        await go_on.wait()
        await session.commit()

    watcher = asyncio.create_task(watch_locks())
    first = asyncio.create_task(client.post("/slowly"))
    async with asyncio.timeout(20):
        await inserted.wait()
        second = asyncio.create_task(client.post("/shelves", json={"label": "Top"}))
        while not any(t.of("lock") for t in feed.running.values()):  # noqa: ASYNC110 (no event)
            await asyncio.sleep(0.005)
    go_on.set()
    assert [(await call).status_code for call in (first, second)] == [200, 409]
    watcher.cancel()
    holder, waiting = sorted(feed.recent, key=lambda trace: trace.number)[-2:]
    (lock,) = waiting.of("lock")
    assert (lock.text, lock.by) == ("a row that is not committed yet", [holder.number])
    (insert,) = waiting.of("sql")
    assert insert.failed
    assert lock.end is not None
    assert lock.end <= (insert.end or 0)


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_wait_for_somebody_elses_lock_is_named(
    client: httpx.AsyncClient, app: FastAPI, postgres: Postgres, url: URL
) -> None:
    watcher = asyncio.create_task(watch_locks())
    with blocked_writes(postgres, url.database or "", "shelves"):
        call = asyncio.create_task(client.post("/shelves", json={"label": "Top"}))
        async with asyncio.timeout(20):
            while not any(t.of("lock") for t in feed.running.values()):  # noqa: ASYNC110 (no event)
                await asyncio.sleep(0.005)
    assert (await call).status_code == 201
    watcher.cancel()
    assert only("lock")["text"] == "the table shelves"
    assert "held by somebody outside this process" in notes()


async def overwrite(
    client: httpx.AsyncClient, app: FastAPI, url: URL, shelf_id: int, column: str, *, again: bool
) -> tuple[Trace, Trace]:
    """Two requests read a row. One writes its place, and then the other writes this column."""
    read, written = asyncio.Event(), asyncio.Event()

    @app.post("/late")
    async def write_late(session: SessionDep) -> None:
        row = await session.get_one(Shelf, shelf_id)
        await session.commit()  # on SQLite, nobody else could write in the meantime
        read.set()
        await written.wait()
        if again:
            await session.refresh(row)
        setattr(row, column, "Attic")
        await session.commit()

    # SQLite has one writer with one slot, so the other write is not made through the service's pool.
    @app.post("/early")
    async def write_early() -> None:
        async with AsyncSession(other.engine) as session:
            row = await session.get_one(Shelf, shelf_id)
            row.place = "Hall"
            await session.commit()

    _, other = engines.make_pools(url, 1)
    observer.observe_pool("writes", other, feed.running, autocommits=False)
    late = asyncio.create_task(client.post("/late"))
    async with asyncio.timeout(20):
        await read.wait()
        assert (await client.post("/early")).status_code == 200
        written.set()
        assert (await late).status_code == 200
    await other.engine.dispose()
    early, late_trace = list(feed.recent)[-2:]
    return early, late_trace


async def test_lost_update_is_named_on_both_requests(
    client: httpx.AsyncClient, app: FastAPI, url: URL, shelf: dict[str, Any]
) -> None:
    queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    feed.listeners.add(queue)
    early, late = await overwrite(client, app, url, shelf["id"], "place", again=False)
    feed.listeners.remove(queue)
    row = f"row {shelf['id']} of shelves"
    words = (
        f"Lost update: #{late.number} wrote over place of {row} without having seen this change."
    )
    assert words in early.warnings
    words = (
        f"Lost update: it read {row}, then #{early.number} changed place, and then it wrote over"
    )
    assert words in " ".join(late.warnings)
    # The page hears once more of the earlier one, which had ended.
    heard = [queue.get_nowait() for _ in range(queue.qsize())]
    assert [shown["number"] for shown in heard] == [early.number, early.number, late.number]
    assert "Lost update" in heard[1]["warnings"][0]


@pytest.mark.parametrize(("column", "again"), [("label", False), ("place", True)])
async def test_other_column_or_a_new_read_is_no_lost_update(
    client: httpx.AsyncClient,
    app: FastAPI,
    url: URL,
    shelf: dict[str, Any],
    column: str,
    *,
    again: bool,
) -> None:
    for trace in await overwrite(client, app, url, shelf["id"], column, again=again):
        assert "Lost update" not in " ".join(trace.warnings)


@pytest.mark.torn
@pytest.mark.parametrize("path", ["/torn", "/whole"])
async def test_torn_read_names_who_changed_what(
    client: httpx.AsyncClient, app: FastAPI, shelf: dict[str, Any], path: str
) -> None:
    async def read_twice(session: AsyncSession) -> None:
        await session.get_one(Shelf, shelf["id"])
        # A task of its own, as every request has.
        post = asyncio.create_task(client.post("/books", json={"title": "Notes"}))
        assert (await post).status_code == 201
        await session.exec(select(Book))

    @app.get("/torn")
    async def read_torn(session: SessionDep) -> None:
        await read_twice(session)

    @app.get("/whole")
    async def read_whole(session: SnapshotDep) -> None:
        await read_twice(session)

    await client.get(path)
    if path == "/torn":
        assert only("torn")["by"] == [newest()["number"] + 1]
        (words,) = newest()["warnings"]
        assert words.startswith("Possibly a torn read: its statements saw two moments")
        assert f"#{newest()['number'] + 1} changed books in between" in words
    else:
        assert "torn" not in kinds()
        assert only("transaction")["text"] == "snapshot"
        assert warnings() == ""


async def test_request_has_its_time_and_a_line_in_the_log(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    before = time.time()
    with caplog.at_level(logging.INFO, "nutshell.middleware"):
        await client.get("/healthz")
        await client.get("/books/1")
        await client.get("/books", headers={"prefer": "count=exact"})
    assert before - 1 < newest()["at"] / 1000 < time.time() + 1
    said = [re.search(r", (\d statements?) ", record.getMessage()) for record in caplog.records]
    assert [found and found[1] for found in said] == ["0 statements", "1 statement", "2 statements"]


@pytest.fixture
def stream() -> Iterator[AsyncIterator[Any]]:
    yield view.stream_events()
    view.stopping = False


async def test_stream_tells_of_recent_and_new_requests_and_ends(
    client: httpx.AsyncClient, stream: AsyncIterator[Any], pools: Pools
) -> None:
    await client.get("/books")
    service = (await anext(stream)).data
    assert service["pools"] == {"reads": pools.reader.size, "writes": pools.writer.size}
    assert service["edited"].endswith(".py")
    assert (await anext(stream)).data["path"] == "/books"
    await client.get("/shelves")
    new = await anext(stream)
    assert (new.event, new.data["path"], new.data["done"]) == ("request", "/shelves", True)
    assert json.dumps(new.data)
    view.stopping = True
    async with asyncio.timeout(10):
        assert [event async for event in stream] == []


async def test_page_that_cannot_follow_misses_some(
    client: httpx.AsyncClient, stream: AsyncIterator[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the process would keep all that happens for it."""
    monkeypatch.setattr(view, "SHOWN", 2)
    await anext(stream)
    for _ in range(25):
        await client.get("/healthz")
    (waiting,) = feed.listeners
    assert waiting.qsize() == 20


async def test_stream_shows_a_slow_request_while_it_is_under_way(
    client: httpx.AsyncClient, app: FastAPI, stream: AsyncIterator[Any]
) -> None:
    go_on = asyncio.Event()

    @app.get("/slow")
    async def be_slow(session: SessionDep) -> None:
        await session.get(Shelf, 1)
        await go_on.wait()

    await anext(stream)
    call = asyncio.create_task(client.get("/slow"))
    async with asyncio.timeout(20):
        while len((shown := (await anext(stream)).data)["spans"]) < 3:
            pass  # it comes again with every tick
        assert (shown["path"], shown["done"]) == ("/slow", False)
        assert shown["total"] > 0
        assert [span["kind"] for span in shown["spans"]] == ["session", "connect", "sql"]
        assert shown["spans"][0]["end"] is None
        go_on.set()
        await call
        while not (shown := (await anext(stream)).data)["done"]:
            pass
    assert shown["status"] == 200


async def test_pools_are_full_before_the_first_request(app: FastAPI, pools: Pools) -> None:
    await view.open_connections()
    for pool in (pools.reader, pools.writer):
        assert cast(QueuePool, pool.engine.sync_engine.pool).checkedin() == pool.size


async def test_process_that_stops_ends_the_streams(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "stopping", False)
    told: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda number, _: told.append(number))
    try:
        async with view.lifespan(app):
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert view.stopping
    assert told == [signal.SIGTERM]


async def test_view_is_for_this_machine_alone(client: httpx.AsyncClient) -> None:
    assert "<title>" in (await client.get("/trace")).text
    for headers in ({"x-forwarded-for": "127.0.0.1"}, {"host": "evil.example"}):
        for path in ("/trace", "/trace/events"):
            assert (await client.get(path, headers=headers)).status_code == 403
