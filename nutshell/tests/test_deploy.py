"""The contract of the platforms: the Procfile's own lines, run as each platform runs them."""

import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import yaml
from sqlalchemy import URL

from nutshell.middleware import EXPOSED
from nutshell.tests.postgres import (
    PASSWORD,
    Postgres,
    blocked_writes,
    free_port,
    wait_for_blocked,
    wait_until,
)
from nutshell.tests.service import (
    BEARER,
    ROOT,
    TOKEN,
    Service,
    Variables,
    copy_library,
    plain_environment,
    procfile,
    workers,
)

pytestmark = pytest.mark.slow

Bin = Path


@pytest.fixture(scope="session")
def production(tmp_path_factory: pytest.TempPathFactory) -> Bin:
    """The programs of a virtual environment that holds requirements.txt and nothing else."""
    folder = tmp_path_factory.mktemp("production")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = ["install", "--quiet", "--disable-pip-version-check", "-r"]
    subprocess.run([folder / "bin/pip", *install, ROOT / "requirements.txt"], check=True)
    return folder / "bin"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return copy_library(tmp_path / "tree")


@pytest.fixture
def postgres_url(postgres: Postgres) -> URL:
    return postgres.create_database(f"deploy_{time.monotonic_ns()}")


def release(tree: Path, production: Bin, url: URL | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", procfile(tree)["release"]],
        cwd=tree,
        env=plain_environment(production, DATABASE_URL=url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def migrated(tree: Path, production: Bin, postgres_url: URL) -> URL:
    done = release(tree, production, postgres_url)
    assert done.returncode == 0, done.stderr
    return postgres_url


# The files


def test_procfile_means_the_same_to_every_reader() -> None:
    lines = procfile()
    assert lines.keys() == {"release", "web"}
    assert yaml.safe_load((ROOT / "Procfile").read_text()) == lines
    for line in lines.values():
        words = shlex.split(line)
        echo = ["bash", "-c", f"eval echo {line}"]
        echoed = subprocess.run(echo, capture_output=True, text=True, check=True)
        assert echoed.stdout.split() == words
        assert not line.startswith("exec ")
        assert "&&" not in line


def test_no_file_changes_what_a_platform_does() -> None:
    present = {path.name for path in ROOT.iterdir()}
    assert not present & {"Dockerfile", "pyproject.toml", "runtime.txt", "Pipfile", "setup.py"}


# The release


def test_release_twice_succeeds(tree: Path, production: Bin, postgres_url: URL) -> None:
    for _ in range(2):
        done = release(tree, production, postgres_url)
        assert done.returncode == 0, done.stderr


def test_four_releases_at_once_succeed(tree: Path, production: Bin, postgres_url: URL) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: release(tree, production, postgres_url), range(4)))
    assert [process.returncode for process in done] == [0] * 4


def test_release_fails_on_a_bad_database(tree: Path, production: Bin, postgres: Postgres) -> None:
    away = f"postgres://nobody:x@127.0.0.1:{postgres.port}/nothing"
    for url in ("", "nonsense", away, "postgres://u:secret@127.0.0.1:1/x", "sqlite:////nowhere/x"):
        done = release(tree, production, url)
        assert done.returncode != 0
        (line,) = (done.stdout + done.stderr).splitlines()
        assert line.startswith("DATABASE_URL: ")
        assert "secret" not in line


def test_release_in_one_copy_and_web_in_another(
    tree: Path, production: Bin, migrated: URL, tmp_path: Path
) -> None:
    other = copy_library(tmp_path / "other")
    shutil.rmtree(tree)
    with Service({"DATABASE_URL": migrated}, tree=other, bin_folder=production) as service:
        assert httpx.get(f"{service.url}/readyz").status_code == 200


# The start


def test_web_without_port_listens_on_8000(tree: Path, production: Bin) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8000)) == 0:
            pytest.skip("something else listens on port 8000")
    with Service(tree=tree, bin_folder=production, port=8000) as service:
        assert httpx.get(f"{service.url}/readyz").status_code == 200


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_web_with_workers_shares_one_database(
    tree: Path, production: Bin, migrated: URL, workers: int
) -> None:
    variables: Variables = {
        "DATABASE_URL": migrated,
        "API_TOKEN": TOKEN,
        "WEB_CONCURRENCY": workers,
    }
    with Service(variables, tree=tree, bin_folder=production) as service:
        for number in range(20):
            response = httpx.post(
                f"{service.url}/books", json={"title": f"Item {number}"}, headers=BEARER
            )
            assert response.status_code == 201
            assert (
                httpx.get(service.url + response.headers["location"], headers=BEARER).status_code
                == 200
            )
        wait_until(lambda: service.log.read_text().count("startup complete") >= workers)
        log = service.log.read_text()
        assert log.count("Started server process") == workers
        assert log.count(f"Database {migrated.get_backend_name()}:") == 1
        assert log.count("Open to callers with a token") == workers


SLOW_IMPORT = """
import multiprocessing, time

if multiprocessing.parent_process():
    time.sleep(6)
"""


def test_worker_that_starts_slowly_is_not_killed(
    tree: Path, production: Bin, migrated: URL
) -> None:
    """As on a fraction of a core. uvicorn's default timeout is five seconds."""
    with (tree / "nutshell/settings.py").open("a") as file:
        file.write(SLOW_IMPORT)
    variables: Variables = {"DATABASE_URL": migrated, "WEB_CONCURRENCY": 2}
    with Service(variables, tree=tree, bin_folder=production) as service:
        wait_until(lambda: service.log.read_text().count("startup complete") >= 2)
        assert "died" not in service.log.read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_web_on_new_sqlite_file_starts(tree: Path, production: Bin, workers: int) -> None:
    variables: Variables = {"WEB_CONCURRENCY": workers, "API_TOKEN": TOKEN}
    with Service(variables, tree=tree, bin_folder=production) as service:
        assert httpx.get(f"{service.url}/readyz").status_code == 200
        made = httpx.post(f"{service.url}/books", json={"title": "a"}, headers=BEARER)
        assert made.status_code == 201
        assert "a PaaS discards this file" in service.log.read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "mysql://root@127.0.0.1/x"),
        ("WEB_CONCURRENCY", ""),
        ("WEB_CONCURRENCY", "many"),
        ("POOL_SIZE", "-1"),
    ],
)
def test_senseless_setting_stops_the_start(
    tree: Path, production: Bin, name: str, value: str
) -> None:
    done = subprocess.run(
        ["bash", "-c", procfile(tree)["web"]],
        cwd=tree,
        env=plain_environment(production, PORT=free_port(), **{name: value}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{name}: ")


def test_start_without_database_recovers_by_itself(
    tree: Path, production: Bin, postgres: Postgres
) -> None:
    port = free_port()
    url = postgres.create_database(f"late_{port}").set(port=port)
    variables: Variables = {"DATABASE_URL": url, "API_TOKEN": TOKEN}
    with Service(variables, tree=tree, bin_folder=production) as service:
        assert service.wait_until_up() < 20
        with service.client() as client:
            assert client.get("/healthz").status_code == 200
            assert client.get("/readyz").status_code == 503
            for response in (client.get("/shelves"), client.post("/books", json={"title": "a"})):
                assert response.status_code == 503
                assert response.headers["retry-after"] == "1"
            with forwarded(port, postgres.port):
                assert release(tree, production, url).returncode == 0
                assert client.get("/readyz").status_code == 200
                assert client.post("/books", json={"title": "a"}).status_code == 201
            assert PASSWORD not in service.log.read_text()


@contextmanager
def forwarded(port: int, target: int) -> Iterator[None]:
    """Connections to `port` reach `target`, until the end of the block cuts them all."""
    listener = socket.create_server(("127.0.0.1", port))
    ends: list[socket.socket] = [listener]

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", target))
            ends.extend((near, far))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=copy, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def powerless() -> tuple[str, ...]:
    """A command that runs another without root's power to write everywhere."""
    if os.geteuid() != 0:
        return ()
    return ("setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override")


def test_read_only_tree_is_enough(
    tree: Path, production: Bin, migrated: URL, tmp_path: Path
) -> None:
    wrapper = powerless()
    for path in (tree, *tree.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        touch = [*wrapper, "touch", str(tree / "probe")]
        assert subprocess.run(touch, check=False).returncode != 0, "the tree is really read-only"
        variables: Variables = {"DATABASE_URL": migrated, "API_TOKEN": TOKEN}
        with Service(variables, tree=tree, bin_folder=production, wrapper=wrapper) as service:
            response = httpx.post(f"{service.url}/books", json={"title": "a"}, headers=BEARER)
            assert response.status_code == 201
    finally:
        for path in (tree, *tree.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)


def test_read_only_sqlite_file_ends_the_start_with_one_line(
    tree: Path, production: Bin, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    file = folder / "test.db"
    variables: Variables = {"DATABASE_URL": f"sqlite:///{file}"}
    with Service(variables, tree=tree, bin_folder=production) as service:
        assert httpx.get(f"{service.url}/readyz").status_code == 200
    file.chmod(0o444)
    folder.chmod(0o555)
    try:
        done = subprocess.run(
            [*powerless(), "bash", "-c", procfile(tree)["web"]],
            cwd=tree,
            env=plain_environment(production, PORT=free_port(), **variables),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        folder.chmod(0o755)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"DATABASE_URL: sqlite:///{file}: ")
    assert "readonly" in line


# The stop


def to_process(service: Service, number: int) -> None:
    service.process.send_signal(number)


def to_group(service: Service, number: int) -> None:
    os.killpg(service.process.pid, number)


def refuses_connections(service: Service) -> bool:
    try:
        httpx.get(f"{service.url}/healthz", timeout=5)
    except httpx.ConnectError:
        return True
    except httpx.TransportError:  # a worker that stops has closed it
        pass
    return False


def count_started(service: Service) -> int:
    """How many workers have started so far."""
    return service.log.read_text().count("Application startup complete")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("send", [to_process, to_group])
@pytest.mark.parametrize("times", [1, 2])
def test_signal_lets_requests_in_flight_finish(
    tree: Path,
    production: Bin,
    migrated: URL,
    postgres: Postgres,
    workers: int,
    number: int,
    send: Callable[[Service, int], None],
    times: int,
) -> None:
    database = str(migrated.database)
    variables: Variables = {
        "DATABASE_URL": migrated,
        "API_TOKEN": TOKEN,
        "WEB_CONCURRENCY": workers,
    }
    with (
        Service(variables, tree=tree, bin_folder=production) as service,
        ThreadPoolExecutor(4) as pool,
    ):
        with blocked_writes(postgres, database, "books") as blocker:

            def create(number: int) -> httpx.Response:
                data = {"title": f"In flight {number}"}
                return httpx.post(f"{service.url}/books", json=data, headers=BEARER, timeout=30)

            wait_until(lambda: count_started(service) == workers)
            calls: list[Future[httpx.Response]] = [pool.submit(create, n) for n in range(4)]
            wait_for_blocked(postgres, database, 4)
            signalled = time.monotonic()
            for _ in range(times):
                send(service, number)
                time.sleep(0.7)
            wait_until(lambda: refuses_connections(service))
            assert not any(call.done() for call in calls)
            blocker.rollback()
        assert [call.result().status_code for call in calls] == [201] * 4
        service.process.wait(25)
        assert time.monotonic() - signalled < 25
        log = service.log.read_text()
        assert log.count("Application shutdown complete") == workers, log
        assert "ERROR" not in log
    left = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
    assert postgres.execute(left) == [(0,)]
    stored = postgres.execute("SELECT count(*) FROM books", database)
    assert stored == [(4,)]


def test_worker_that_ends_while_the_supervisor_waits_for_it_is_replaced_at_once(
    tree: Path, production: Bin
) -> None:
    """Until it notices, it is deaf to signals too, and a platform would kill it."""
    variables: Variables = {"OPEN_LOCAL": 1, "WEB_CONCURRENCY": 2}
    with Service(variables, tree=tree, bin_folder=production) as service:
        wait_until(lambda: count_started(service) == 2)
        worker = workers(service.process.pid)[0]
        os.kill(worker, signal.SIGSTOP)
        time.sleep(1.5)  # it is asked twice a second
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: count_started(service) == 3)


def test_signal_ends_the_process_though_a_request_never_finishes(
    tree: Path, production: Bin, migrated: URL, postgres: Postgres
) -> None:
    database = str(migrated.database)
    variables: Variables = {"DATABASE_URL": migrated, "API_TOKEN": TOKEN}
    with (
        Service(variables, tree=tree, bin_folder=production) as service,
        ThreadPoolExecutor(1) as pool,
        blocked_writes(postgres, database, "books"),
    ):
        data = {"title": "Never"}
        url = f"{service.url}/books"
        call = pool.submit(httpx.post, url, json=data, headers=BEARER, timeout=60)
        wait_for_blocked(postgres, database, 1)
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(25)
        assert isinstance(call.exception(30) or call.result(), httpx.HTTPError | httpx.Response)


def test_interrupt_while_the_database_is_migrated_ends_quietly(
    tree: Path, production: Bin, tmp_path: Path
) -> None:
    file = tmp_path / "test.db"
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    service = Service({"DATABASE_URL": f"sqlite:///{file}"}, tree=tree, bin_folder=production)
    with ExitStack() as stack:
        stack.push(service)
        stack.callback(other.close)
        while "INFO - Database sqlite" not in service.log.read_text():
            assert time.monotonic() < service.started + 20
            time.sleep(0.02)
        time.sleep(0.5)
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(20) == 0
        assert "Traceback" not in service.log.read_text()


# The connections


def test_idle_connection_outlasts_the_routers(tree: Path, production: Bin, migrated: URL) -> None:
    variables: Variables = {"DATABASE_URL": migrated, "API_TOKEN": TOKEN}
    with (
        Service(variables, tree=tree, bin_folder=production) as service,
        socket.create_connection(("127.0.0.1", service.port)) as connection,
    ):
        request = b"GET /healthz HTTP/1.1\r\nhost: nutshell\r\n\r\n"
        connection.sendall(request)
        answer = b""
        while b'"ok"' not in answer:
            part = connection.recv(65536)
            assert part, "the server hung up"
            answer += part
        connection.settimeout(91)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(5)
        connection.sendall(request)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_references_repeat_no_host(tree: Path, production: Bin, migrated: URL) -> None:
    variables: Variables = {"DATABASE_URL": migrated, "API_TOKEN": TOKEN}
    with Service(variables, tree=tree, bin_folder=production) as service:
        headers = BEARER | {"x-forwarded-proto": "https", "host": "evil.example"}
        with httpx.Client(base_url=service.url, headers=headers) as client:
            created = [client.post("/books", json={"title": "a"}) for _ in range(2)]
            assert created[0].headers["location"].startswith("/books/")
            link = client.get("/books?limit=1").headers["link"]
            assert link.startswith("</books?limit=1&after=")
            assert client.get("/books/").status_code == 404


SCHEME = """

from fastapi import Request

@app.get("/scheme")
async def read_scheme(request: Request) -> str:
    return request.url.scheme
"""


@pytest.mark.parametrize(("trusted", "scheme"), [("127.0.0.1", "https"), ("10.0.0.1", "http")])
def test_scheme_is_believed_of_trusted_proxies_alone(
    tree: Path, production: Bin, trusted: str, scheme: str
) -> None:
    variables: Variables = {"FORWARDED_ALLOW_IPS": trusted, "API_TOKEN": TOKEN}
    with (tree / "main.py").open("a") as file:
        file.write(SCHEME)
    with Service(variables, tree=tree, bin_folder=production) as service:
        headers = BEARER | {"x-forwarded-proto": "https"}
        assert httpx.get(f"{service.url}/scheme", headers=headers).json() == scheme


def test_forged_headers_do_not_open_the_service(tree: Path, production: Bin) -> None:
    with Service({"OPEN_LOCAL": 1}, tree=tree, bin_folder=production) as service:
        assert httpx.get(f"{service.url}/shelves").status_code == 200
        for name in ("x-forwarded-for", "forwarded", "x-forwarded-host", "x-real-ip", "via"):
            response = httpx.get(f"{service.url}/shelves", headers={name: "127.0.0.1"})
            assert response.status_code == 403


# The log


def test_log_tells_of_requests_and_not_of_secrets(
    tree: Path, production: Bin, migrated: URL
) -> None:
    variables: Variables = {"DATABASE_URL": migrated, "API_TOKEN": TOKEN}
    with Service(variables, tree=tree, bin_folder=production) as service:
        with service.client() as client:
            shelf = {"label": "ada@example.com"}
            sane = client.post("/shelves", json=shelf, headers={"x-request-id": "trace-1.a_B"})
            assert sane.headers["x-request-id"] == "trace-1.a_B"
            clash = client.post("/shelves", json=shelf)
            assert clash.status_code == 409
            for odd in ("a b", "x" * 65, "a\u00e9", "ada@example.com"):
                made = client.get("/shelves", headers=[(b"x-request-id", odd.encode("latin-1"))])
                assert re.fullmatch(r"[0-9a-f]{32}", made.headers["x-request-id"])
            client.get("/shelves/ada@example.com?email=ada%40example.com")
            client.get("/shelves/ada%40example.com")
            client.get(f"/shelves?token={TOKEN}")
        wait_until(lambda: "GET /shelves 422" in service.log.read_text())
        log = service.log.read_text()
        assert re.search(r"INFO trace-1\.a_B POST /shelves 201 \d+\.\d ms", log)
        assert re.search(r"INFO [0-9a-f]{32} POST /shelves 409 ", log)
        for secret in ("ada@", "ada%40", TOKEN, PASSWORD, "p%40ss"):
            assert secret not in log


def test_log_of_a_defect_has_the_request_id(
    tree: Path, production: Bin, migrated: URL, postgres: Postgres
) -> None:
    postgres.execute("ALTER TABLE shelves ADD COLUMN extra int NOT NULL", str(migrated.database))
    origin = "https://app.example.com"
    variables: Variables = {"DATABASE_URL": migrated, "API_TOKEN": TOKEN, "CORS_ORIGINS": origin}
    with Service(variables, tree=tree, bin_folder=production) as service:
        response = httpx.post(
            f"{service.url}/shelves",
            json={"label": "ada@example.com"},
            headers=BEARER | {"x-request-id": "defect-1", "origin": origin},
        )
        assert response.status_code == 500
        assert response.headers["x-request-id"] == "defect-1"
        assert response.headers["access-control-allow-origin"] == origin
        assert "extra" not in response.text
        wait_until(lambda: "defect-1 POST /shelves 500" in service.log.read_text())
        log = service.log.read_text()
        assert "ERROR defect-1 POST failed" in log
        assert "NotNullViolation" in log
        assert "ada@" not in log


# The browsers


def test_cors_is_off_unless_set(tree: Path, production: Bin, migrated: URL) -> None:
    origin = {"origin": "https://app.example.com"}
    ask = origin | {"access-control-request-method": "PATCH"}
    variables: Variables = {"DATABASE_URL": migrated, "API_TOKEN": TOKEN}
    with Service(variables, tree=tree, bin_folder=production) as service:
        response = httpx.get(f"{service.url}/shelves", headers=BEARER | origin)
        assert "access-control-allow-origin" not in response.headers
    variables["CORS_ORIGINS"] = "https://app.example.com"
    with Service(variables, tree=tree, bin_folder=production) as service:
        response = httpx.get(f"{service.url}/shelves", headers=BEARER | origin)
        assert response.headers["access-control-allow-origin"] == "https://app.example.com"
        exposed = response.headers["access-control-expose-headers"].split(", ")
        assert set(exposed) == set(EXPOSED)
        assert httpx.options(f"{service.url}/shelves/1", headers=ask).status_code == 200
        other = httpx.get(
            f"{service.url}/shelves", headers=BEARER | {"origin": "https://evil.example"}
        )
        assert "access-control-allow-origin" not in other.headers
