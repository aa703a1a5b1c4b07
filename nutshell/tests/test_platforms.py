"""From a fresh tree to the first answer, a second release, a roll-back and a stop, on each platform."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml
from sqlalchemy import URL, create_engine, make_url, text

from nutshell.tests.callers import Callers
from nutshell.tests.platforms import (
    PLATFORMS,
    STOP,
    Command,
    Platform,
    fly_file,
    leave_out,
)
from nutshell.tests.postgres import Postgres, wait_until
from nutshell.tests.service import (
    BEARER,
    ROOT,
    TOKEN,
    Service,
    Variables,
    alembic,
    copy_library,
    library_checkout,
    plain_environment,
    procfile,
)

Bin = Path


def install(folder: Path, *more: str) -> Bin:
    """A virtual environment with requirements.txt, as uv installs it, and what the platform adds."""
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    to = ["--quiet", "--compile-bytecode", "--python", str(folder / "bin/python")]
    subprocess.run([uv, "pip", "install", *to, "-r", ROOT / "requirements.txt"], check=True)
    if more:
        subprocess.run([uv, "pip", "install", *to, *more], check=True)
    return folder / "bin"


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bin:
    return install(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def with_servers(tmp_path_factory: pytest.TempPathFactory) -> Bin:
    """With the commands that platforms of their own accord start `main:app` with."""
    folder = tmp_path_factory.mktemp("servers")
    return install(folder, "fastapi-cli==0.0.34", "gunicorn==27.0.1", "uvicorn-worker==0.4.0")


@pytest.fixture
def database(postgres: Postgres) -> URL:
    return postgres.create_database(f"platform_{time.monotonic_ns()}")


NEXT = '''
"""Add {table}.{column}."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"

def upgrade() -> None:
    with op.batch_alter_table("{table}") as batch:
        batch.add_column(sa.Column("{column}", sa.String({length}), nullable=True))

def downgrade() -> None:
    with op.batch_alter_table("{table}") as batch:
        batch.drop_column("{column}")
'''


def make_next_version(tree: Path) -> Path:
    """Books get a note: the column in a migration, and the field in the model."""
    file = tree / "migrations/versions/0002_add_books_note.py"
    file.write_text(NEXT.format(table="books", column="note", length=100))
    main = tree / "main.py"
    text = main.read_text()
    field = "    text: str | None = Field(default=None, max_length=10_000)\n"
    assert field in text
    main.write_text(text.replace(field, f"{field}    note: str | None = None\n"))
    return tree


def run_release(
    command: Command, tree: Path, bin_folder: Bin, variables: Variables
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=tree,
        env=plain_environment(bin_folder, **variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
def test_platform_releases_serves_rolls_back_and_stops(
    platform: Platform, request: pytest.FixtureRequest, tmp_path: Path, database: URL
) -> None:
    bin_folder: Bin = request.getfixturevalue("plain" if platform.own else "with_servers")
    first = copy_library(tmp_path / "first")
    second = make_next_version(copy_library(tmp_path / "second"))
    for tree in (first, second):
        if platform.ignores:
            leave_out(tree, platform.ignores)
            assert not list(tree.rglob("tests"))
    variables: Variables = platform.variables | {"DATABASE_URL": database, "API_TOKEN": TOKEN}

    def release(tree: Path) -> str:
        done = run_release(platform.command("release"), tree, bin_folder, variables)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def serve(tree: Path) -> Service:
        web = platform.command("web")
        return Service(variables, tree=tree, bin_folder=bin_folder, command=web)

    def check(service: Service, schema: str) -> None:
        with httpx.Client(base_url=service.url, headers=BEARER) as client:
            assert client.get("/readyz").json() == {"status": "ok", "schema": schema}
            created = client.post("/books", json={"title": "ada@example.com"})
            assert created.status_code == 201
            request_id = created.headers["x-request-id"]
            assert client.get(created.headers["location"]).status_code == 200
            assert httpx.get(f"{service.url}/books").status_code == 401
            client.get("/books/ada@example.com")
        wait_until(lambda: "/books/(e-mail) 422" in service.log.read_text())
        log = service.log.read_text()
        assert re.search(rf"INFO {request_id} POST /books 201 \d+\.\d ms", log)
        assert log.count("POST /books") == 1, "one line a request"
        assert "Open to callers with a token" in log
        assert "ada@" not in log
        assert ("Not started by python -m nutshell" in log) is not platform.own

    assert "-> 0001" in release(first)
    with serve(first) as service:
        check(service, "current")
        assert "-> 0002" in release(second)
        with serve(second) as successor:
            check(successor, "current")
        wait_until(lambda: is_ahead(service))
        assert "ahead of this version: nothing to do" in release(first)
    with serve(first) as service:
        check(service, "ahead")
        stopped = time.monotonic()
        os.killpg(service.process.pid, STOP)  # as Heroku does; the others signal the first alone
        service.process.wait(platform.seconds)
        assert time.monotonic() - stopped < platform.seconds
        assert "Application shutdown complete" in service.log.read_text()


def is_ahead(service: Service) -> bool:
    return bool(httpx.get(f"{service.url}/readyz").json().get("schema") == "ahead")


@pytest.mark.slow
def test_release_of_an_older_version_needs_all_that_its_models_name(empty_url: URL) -> None:
    assert alembic(empty_url, "upgrade", "head").returncode == 0
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    done = alembic(empty_url, "upgrade", "head")
    assert done.returncode == 0
    assert "The schema is at 9999, ahead of this version: nothing to do." in done.stderr
    done = alembic(empty_url, "downgrade", "0001")
    assert done.returncode != 0
    assert "Can't locate revision" in done.stderr
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE books DROP COLUMN text"))
    engine.dispose()
    done = alembic(empty_url, "upgrade", "head")
    assert done.returncode != 0
    assert "unknown to this version, and lacks books.text." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_release_on_fly_without_a_database_ends_with_a_line() -> None:
    fly = next(platform for platform in PLATFORMS if platform.name == "Fly")
    bin_folder = Path(sys.executable).parent
    done = run_release(fly.command("release"), library_checkout(), bin_folder, fly.variables)
    assert done.returncode != 0
    assert done.stderr.startswith("DATABASE_URL: not set. Fly runs several machines")
    assert len(done.stderr.splitlines()) == 1


# The files


def test_platforms_release_and_start_what_the_procfile_says() -> None:
    lines = procfile()
    words = {kind: line.split() for kind, line in lines.items()}
    for platform in PLATFORMS:
        assert words["release"][0] in " ".join(platform.command("release"))
        if platform.own:
            assert lines["web"] in " ".join(platform.command("web"))


def test_launcher_gets_the_release_of_fly_as_one_word() -> None:
    release = next(p for p in PLATFORMS if p.name == "Fly").command("release")
    assert release == ["bash", "-c", procfile()["release"]]
    assert fly_file()["kill_signal"] == STOP.name
    assert int(fly_file()["kill_timeout"].removesuffix("s")) > 20


def test_heroku_gets_a_database_a_token_and_a_check() -> None:
    app = json.loads((ROOT / "app.json").read_text())
    assert app["addons"] == ["heroku-postgresql"]
    assert app["env"]["API_TOKEN"]["generator"] == "secret"
    assert app["healthchecks"]["web"][0]["path"] == "/healthz"
    assert re.fullmatch(r"3\.\d+", (ROOT / ".python-version").read_text().strip())


def test_blueprint_has_a_database_a_token_and_a_plan_with_a_release() -> None:
    blueprint = yaml.safe_load((ROOT / "render.yaml").read_text())
    (web,) = blueprint["services"]
    (database,) = blueprint["databases"]
    assert (web["type"], web["runtime"]) == ("web", "python")
    assert web["plan"] != "free", "it has no preDeployCommand"
    assert web["healthCheckPath"] == "/healthz"
    assert web["maxShutdownDelaySeconds"] > 20
    variables = {variable.pop("key"): variable for variable in web["envVars"]}
    assert variables["API_TOKEN"] == {"generateValue": True}
    source = {"name": database["name"], "property": "connectionString"}
    assert variables["DATABASE_URL"]["fromDatabase"] == source
    assert database["ipAllowList"] == []


def test_railway_checks_health_and_drains() -> None:
    assert not (ROOT / "railway.json").exists(), "not read by new services, by none from 2026-12-01"
    config = (ROOT / ".railway/railway.ts").read_text()
    assert 'healthcheck: "/healthz"' in config
    (seconds,) = re.findall(r"drainingSeconds: (\d+)", config)
    assert int(seconds) > 20


IGNORES = sorted(path.name for path in ROOT.glob(".*ignore") if path.name != ".gitignore")


def test_platforms_leave_out_the_same_and_no_more_than_runs(tmp_path: Path) -> None:
    lists = {(ROOT / name).read_text() for name in IGNORES}
    assert len(lists) == 1, f"these differ: {IGNORES}"
    named = set(lists.pop().split())
    assert named >= {".env", ".git", "tests", "nutshell/tests"}
    assert not named & {"main.py", "models.py", "migrations", "nutshell", "requirements.txt"}


# The page

PAGE = (ROOT / "docs/operating.md").read_text()
PROGRAMS = ("fastapi", "fly", "gcloud", "git", "heroku", "railway", "ssh")
# Stands in for each of these programs, and notes with which words it was called.
STUB = """#!{python}
import json, os, sys
with open({calls!r}, "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
"""


def section(title: str) -> str:
    return PAGE.partition(f"\n### {title}\n")[2].partition("\n#")[0]


def paste(lines: str, folder: Path, **variables: str) -> list[list[str]]:
    """Runs the lines in a shell, and returns the calls of the platforms' programs."""
    calls = folder / "calls"
    programs = folder / "programs"
    programs.mkdir()
    for name in PROGRAMS:
        program = programs / name
        program.write_text(STUB.format(python=sys.executable, calls=str(calls)))
        program.chmod(0o755)
    environment = plain_environment(programs, **variables)
    subprocess.run(["bash", "-ec", lines], cwd=folder, env=environment, check=True, timeout=60)
    return [json.loads(line) for line in calls.read_text().splitlines()]


# The last call of each, and what else must have been told before.
PASTED: dict[str, tuple[str, list[str]]] = {
    "Heroku": ("git push heroku main", ["heroku addons:create heroku-postgresql"]),
    "Dokku": ("git push dokku main", ["postgres:link db nutshell"]),
    "Fly": ("fly launch", ["--copy-config", "--db=mpg"]),
    "Railway": ("railway up", ["railway config apply"]),
    "Cloud Run": ("gcloud run deploy nutshell", ["--command release", "--execute-now --wait"]),
    "FastAPI Cloud": ("fastapi deploy", ["fastapi cloud apps create --link"]),
}


@pytest.mark.parametrize("name", PASTED)
def test_lines_of_the_page_set_a_token_and_end_with_the_one_command(
    name: str, tmp_path: Path
) -> None:
    (lines,) = re.findall(r"(?ms)^```sh\n(.*?)^```", section(name))
    calls = paste(lines, tmp_path, DATABASE_URL="postgres://u:p@db.example.com/name")
    last, told = PASTED[name]
    assert " ".join(calls[-1]).startswith(last)
    every = "\n".join(" ".join(call) for call in calls)
    for words in told:
        assert words in every
    (token,) = re.findall(r"API_TOKEN[= ]([0-9a-f]+)\b", every)
    assert len(token) == 64
    table = next(line for line in PAGE.splitlines() if line.startswith(f"| [{name}]("))
    assert f"`{last.partition(' deploy nutshell')[0]}" in table


def test_platforms_of_the_page_are_those_that_are_run() -> None:
    listed = re.findall(r"(?m)^\| \[([^\]]+)\]\(#", PAGE)
    known = {platform.name for platform in PLATFORMS}
    assert set(listed) - {"others"} == known - {"Azure", "uvicorn"}


@pytest.mark.slow
def test_dockerfile_of_the_page_serves(plain: Bin, tmp_path: Path, database: URL) -> None:
    """By its steps, in a folder in place of an image. `plain` has what pip installs."""
    (file,) = re.findall(r"(?ms)^```\n(FROM .*?)^```", section("With Docker"))
    steps = [line.split(maxsplit=1) for line in file.splitlines()]
    source, image = copy_library(tmp_path / "source"), tmp_path / "image"
    leave_out(source, ".dockerignore")
    (version,) = re.findall(r"python:([\d.]+)", dict(steps[:1])["FROM"])
    assert version == (ROOT / ".python-version").read_text().strip()
    image.mkdir()
    command: Command = []
    for step, rest in steps[1:]:
        if step == "COPY" and rest == ". .":
            shutil.copytree(source, image, dirs_exist_ok=True)
        elif step == "COPY":
            name, _ = rest.split()
            shutil.copy(source / name, image)
        elif step == "RUN" and rest.startswith("pip install"):
            assert (image / rest.split()[-1]).read_text() == (ROOT / "requirements.txt").read_text()
        elif step == "RUN":
            assert run_release(["sh", "-c", rest], image, plain, {}).returncode == 0
        elif step == "CMD":
            command = json.loads(rest)
        else:
            assert step in ("WORKDIR", "USER")
    assert (image / "__pycache__").exists()
    variables: Variables = {"DATABASE_URL": database, "API_TOKEN": TOKEN}
    (release,) = re.findall(r"<image> ([^`]+)`", section("With Docker"))
    assert run_release(release.split(), image, plain, variables).returncode == 0
    with Service(variables, tree=image, bin_folder=plain, command=command) as service:
        assert httpx.get(f"{service.url}/readyz").json()["schema"] == "current"


# Releases side by side


@pytest.fixture(params=["sqlite", "postgresql"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    if request.param == "sqlite":
        return make_url(f"sqlite:///{tmp_path}/test.db")
    found: URL = request.getfixturevalue("database")
    return found


@pytest.mark.slow
def test_release_and_roll_back_fail_no_call(shared_url: URL, tmp_path: Path) -> None:
    first = library_checkout()
    second = make_next_version(copy_library(tmp_path / "second"))
    variables: Variables = {"DATABASE_URL": shared_url, "API_TOKEN": TOKEN}
    release: Callable[[Path], subprocess.CompletedProcess[str]] = lambda tree: alembic(
        shared_url, "upgrade", "head", tree=tree
    )
    assert release(first).returncode == 0
    with Service(variables, tree=first) as old:
        callers = Callers(old, token=TOKEN)
        with callers.running():
            callers.wait_for(100)
            assert release(second).returncode == 0
            with Service(variables, tree=second) as new:
                callers.go_to(old, new)
                callers.wait_for(callers.made + 200)
                callers.go_to(new)
                callers.wait_for(callers.made + 100)
                assert release(first).returncode == 0  # the roll-back
                callers.go_to(old)
            callers.wait_for(callers.made + 100)
        assert "ERROR" not in old.log.read_text()
        assert is_ahead(old)
        with old.client() as client:
            ids = client.get("/books?limit=1", headers={"prefer": "count=exact"})
        assert ids.headers["x-total-count"] == str(callers.written)


@pytest.mark.slow
def test_token_is_replaced_without_a_failed_call(database: URL) -> None:
    assert alembic(database, "upgrade", "head").returncode == 0

    def serve(tokens: str) -> Service:
        return Service({"DATABASE_URL": database, "API_TOKEN": tokens})

    with serve("old") as before, serve("old, new") as between, serve("new") as after:
        callers = Callers(before, token="old")
        with callers.running():
            callers.wait_for(50)
            callers.go_to(between)
            before.process.terminate()
            callers.wait_for(callers.made + 100)
            callers.token = "new"
            callers.go_to(between)
            callers.wait_for(callers.made + 100)
            callers.go_to(after)
            between.process.terminate()
            callers.wait_for(callers.made + 100)
        old = {"authorization": "Bearer old"}
        assert httpx.get(f"{after.url}/books", headers=old).status_code == 401
