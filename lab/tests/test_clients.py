"""Clients of others: generated from the OpenAPI document, and caches that follow the headers."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import hishel
import hishel.httpx
import httpx
import pytest
import requests_cache

from nutshell.tests.browser import CHROMIUM, opened
from nutshell.tests.postgres import free_port, wait_until
from nutshell.tests.service import BEARER, ROOT, TOKEN, Service, Variables, checkout

# Some install packages first, and a registry may be slow.
pytestmark = pytest.mark.timeout(900)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
needs_java = pytest.mark.skipif(shutil.which("javac") is None, reason="no JDK is installed")
needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *_: object) -> None:  # noqa: A002 (its name in the base class)
        pass


@pytest.fixture
def pages(installed: Path) -> Iterator[str]:
    """The clients, on an origin of their own."""
    handler = partial(QuietHandler, directory=installed)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    variables: Variables = {"DATABASE_URL": f"sqlite:///{tmp_path}/test.db", "API_TOKEN": TOKEN}
    with Service(variables, tree=checkout()) as service:
        yield service
        assert " ERROR " not in service.log.read_text()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clients, with what they need from npm."""
    folder = tmp_path_factory.mktemp("clients") / "clients"
    shutil.copytree(ROOT / "lab/clients", folder, ignore=shutil.ignore_patterns("node_modules"))
    run(folder, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
    return folder


@pytest.fixture
def examples(installed: Path, service: Service) -> Path:
    (installed / "openapi.json").write_text(httpx.get(f"{service.url}/openapi.json").text)
    return installed


def install(folder: Path, name: str) -> Path:
    """Installs the locked Python packages of a client, and returns its Python."""
    run(folder, sys.executable, "-m", "venv", "environment")
    python = folder / "environment/bin/python"
    locked = ROOT / "lab/clients" / name / "requirements.txt"
    run(folder, str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(locked))
    return python


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The jar of OpenAPI Generator, which contains the libraries of its Java clients."""
    folder = tmp_path_factory.mktemp("generator")
    install(folder, "generator")
    return next(folder.glob("environment/lib/python*/site-packages/openapi_generator_cli/*.jar"))


def run(folder: Path, *command: str, **variables: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ
        | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "REDOCLY_TELEMETRY": "off",
            "NO_COLOR": "1",
        }
        | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


@needs_npm
def test_typescript_client_is_typed_and_uses_every_operation(
    examples: Path, service: Service
) -> None:
    run(examples, "npm", "run", "types")
    run(examples, "npm", "run", "check")  # tsc --strict
    said = run(examples, "node", "built/client.js", service.url, TOKEN)
    assert said == "every operation answered\n"
    paths = json.loads((examples / "openapi.json").read_text())["paths"]
    text = (examples / "client.ts").read_text()
    for path, operations in paths.items():
        for method in operations:
            assert re.search(rf'client\.{method.upper()}\("{re.escape(path)}"', text), (
                method,
                path,
            )


@needs_npm
def test_postman_collection_runs(examples: Path, service: Service) -> None:
    run(examples, "npm", "run", "postman")
    run(
        examples,
        *("npx", "newman", "run", "collection.json"),
        *("--env-var", f"baseUrl={service.url}", "--env-var", f"bearerToken={TOKEN}"),
        *("--reporters", "json", "--reporter-json-export", "report.json"),
    )
    report = json.loads((examples / "report.json").read_text())["run"]
    statuses = {
        f"{call['request']['method']} {call['item']['name']}": call["response"]["code"]
        for call in report["executions"]
    }
    operations = json.loads((examples / "openapi.json").read_text())["paths"].values()
    assert len(statuses) == sum(len(methods) for methods in operations)
    assert set(statuses.values()) == {200, 201, 204}, statuses


@needs_npm
def test_linters_find_no_error(examples: Path) -> None:
    run(examples, "npx", "redocly", "lint", "openapi.json")
    found = run(examples, "npx", "spectral", "lint", "openapi.json", "--fail-severity", "error")
    rules = set(re.findall(r"warning +(\S+)", found))
    assert rules <= {"info-contact"}, found


# Without Maven and Go modules, whose registries the tests do not use.
OPTIONS = {
    "java": (
        "--library=native",
        "--additional-properties=openApiNullable=false,hideGenerationTimestamp=true",
    ),
    "go": ("--additional-properties=packageName=nutshell,withGoMod=false",),
}


def generate(generator: Path, service: Service, folder: Path, language: str) -> Path:
    document = folder / "openapi.json"
    document.write_text(httpx.get(f"{service.url}/openapi.json").text)
    output = folder / "src/nutshell"
    said = run(
        folder,
        *("java", "-jar", str(generator), "generate", "-g", language, *OPTIONS[language]),
        *("-i", str(document), "-o", str(output), "--global-property"),
        "apis,models,supportingFiles,apiDocs=false,modelDocs=false,apiTests=false,modelTests=false",
    )
    warnings = re.findall(r"WARN .* - (.*)", said)
    expected = ("Ignoring complex example on request body", "OpenAPI 3.1 support is still in beta")
    assert [line for line in warnings if not line.startswith(expected)] == []
    return output


def operation_ids(service: Service) -> list[str]:
    paths = httpx.get(f"{service.url}/openapi.json").json()["paths"]
    return [operation["operationId"] for path in paths.values() for operation in path.values()]


def camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


@needs_java
def test_java_client_compiles_and_uses_every_operation(
    generator: Path, service: Service, tmp_path: Path
) -> None:
    output = generate(generator, service, tmp_path, "java")
    own = [ROOT / "lab/clients/generator" / name for name in ("Client.java", "Generated.java")]
    sources = [str(path) for path in (*own, *output.glob("src/main/**/*.java"))]
    run(tmp_path, "javac", "-nowarn", "-cp", str(generator), "-d", "built", *sources)
    said = run(tmp_path, "java", "-cp", f"{generator}:built", "Client", service.url, TOKEN)
    assert said == "every operation answered\n"
    for name in operation_ids(service):
        assert re.search(rf"{camel(name)}(WithHttpInfo)?\(", own[0].read_text(), re.IGNORECASE), (
            name
        )


@needs_java
@needs_go
def test_go_client_compiles_and_uses_every_operation(
    generator: Path, service: Service, tmp_path: Path
) -> None:
    generate(generator, service, tmp_path, "go")
    (tmp_path / "src/client").mkdir()
    program = ROOT / "lab/clients/generator/client.go"
    shutil.copy(program, tmp_path / "src/client")
    variables = {"GO111MODULE": "off", "GOPATH": str(tmp_path), "GOCACHE": f"{tmp_path}/cache"}
    said = run(tmp_path, "go", "run", "client", service.url, TOKEN, **variables)
    assert said == "every operation answered\n"
    for name in operation_ids(service):
        assert f".{camel(name)}(ctx" in program.read_text(), name


def test_agent_pages_and_retries_with_the_document_alone(service: Service, tmp_path: Path) -> None:
    python = install(tmp_path, "agent")
    for _ in range(2):
        batch = [{"name": f"Item {number}"} for number in range(60)]
        httpx.post(f"{service.url}/items/batch", json=batch, headers=BEARER).raise_for_status()
    program = ROOT / "lab/clients/agent/main.py"
    assert "the agent is done\n" in run(tmp_path, str(python), str(program), service.url, TOKEN)


@needs_npm
def test_axios_sends_arrays(examples: Path, service: Service) -> None:
    said = run(examples, "node", "axios.mjs", service.url, TOKEN)
    assert said == "axios found both\n"


@needs_npm
def test_validating_proxy_finds_no_violation(examples: Path, service: Service) -> None:
    run(examples, "npx", "esbuild", "client.ts", "--format=esm", "--outfile=valid.js")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    prism = ("node", "node_modules/.bin/prism", "proxy", "openapi.json", service.url, "--errors")
    with (examples / "prism.log").open("w") as log:
        process = subprocess.Popen(
            [*prism, "--port", str(port)], cwd=examples, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: "Prism is listening" in (examples / "prism.log").read_text(), 60)
        assert httpx.get(f"{url}/items?limit=0", headers=BEARER).json()["type"] != "about:blank"
        said = run(examples, "node", "valid.js", url, TOKEN, "proxy")
        assert said == "every operation answered\n"
    finally:
        process.terminate()
        process.wait(20)
    assert "Violation" not in (examples / "prism.log").read_text().partition("limit=0")[2]


def test_python_client_is_generated_and_typed(service: Service, tmp_path: Path) -> None:
    generate = ("generate", "--url", f"{service.url}/openapi.json", "--meta", "none")
    said = run(tmp_path, "openapi-python-client", *generate, "--output-path", "client")
    assert "WARNING" not in said.upper()
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "client"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    # client.py is the same for every document.
    wrong = set(re.findall(r"(?m)^(\S+):\d+: error", checked.stdout))
    assert wrong <= {"client/client.py"}, checked.stdout
    assert "source files" in checked.stdout


def test_requests_cache_shows_no_stale_row(service: Service, tmp_path: Path) -> None:
    path = f"{service.url}/items"
    row = httpx.post(path, json={"name": "a"}, headers=BEARER).json()
    with requests_cache.CachedSession(str(tmp_path / "cache"), cache_control=True) as session:
        session.headers.update(BEARER)
        for name in ("a", "b", "c"):
            for url in (f"{path}/{row['id']}", path):
                shown = session.get(url).json()
                assert (shown[0] if isinstance(shown, list) else shown)["name"] == name
                assert session.get(url).from_cache, "an answer that still holds is not sent again"
            following = {"a": "b", "b": "c", "c": "d"}[name]
            httpx.patch(f"{path}/{row['id']}", json={"name": following}, headers=BEARER)


def test_hishel_shows_no_stale_row(service: Service, tmp_path: Path) -> None:
    path = f"{service.url}/items"
    row = httpx.post(path, json={"name": "a"}, headers=BEARER).json()
    storage = hishel.SqliteStorage(database_path=tmp_path / "cache.db")
    with hishel.httpx.CacheClient(storage=storage, rfc=True, headers=BEARER) as client:
        for name in ("a", "b", "c"):
            for url in (f"{path}/{row['id']}", path):
                for _ in range(2):
                    shown = client.get(url).json()
                    assert (shown[0] if isinstance(shown, list) else shown)["name"] == name
            following = {"a": "b", "b": "c", "c": "d"}[name]
            httpx.patch(f"{path}/{row['id']}", json={"name": following}, headers=BEARER)


@pytest.fixture
def items(tmp_path: Path, pages: str) -> Iterator[httpx.Client]:
    """A service with 25 items, which pages of the other origin may call."""
    variables: Variables = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/items.db",
        "API_TOKEN": TOKEN,
        "CORS_ORIGINS": pages,
    }
    with Service(variables, tree=checkout()) as service, service.client() as client:
        names = [f"Item {number:02}" for number in range(25, 0, -1)]  # ids run the other way
        batch = client.post("/items/batch", json=[{"name": name} for name in names])
        assert batch.status_code == 201
        yield client
        assert " ERROR " not in service.log.read_text()


@needs_npm
@needs_browser
def test_react_admin_sorts_pages_filters_edits_and_deletes(
    installed: Path, pages: str, items: httpx.Client
) -> None:
    run(installed, "npm", "run", "admin")
    with opened(expected="status of 412") as page:
        page.set_viewport_size({"width": 1200, "height": 900})
        page.goto(f"{pages}/react-admin.html?url={items.base_url}&token={TOKEN}".replace("/&", "&"))
        names = page.locator("td.column-name")
        page.get_by_text("1-10 of 25").wait_for(timeout=15000)
        assert names.first.inner_text() == "Item 25"
        page.get_by_role("button", name="Name").click()  # sorts by it
        page.locator("td.column-name", has_text="Item 01").wait_for()
        assert names.all_inner_texts() == [f"Item {number:02}" for number in range(1, 11)]
        page.get_by_role("button", name="Go to next page").click()
        page.get_by_text("11-20 of 25").wait_for()
        page.locator("td.column-name", has_text="Item 11").wait_for()
        page.get_by_label("Name", exact=True).fill("Item 07")
        page.get_by_text("1-1 of 1").wait_for()
        number = items.get("/items?name=Item%2007").json()[0]["id"]
        with page.expect_response(f"**/items/{number}"):
            page.locator("td.column-name", has_text="Item 07").click()
        page.get_by_label("Description").wait_for()
        name = page.get_by_role("textbox", name="Name")
        # Somebody else is faster.
        items.patch(f"/items/{number}", json={"description": "changed by another"})
        name.fill("Item 7")
        page.get_by_role("button", name="Save").click()
        page.get_by_text("The row has changed since you read it").wait_for()
        assert items.get(f"/items/{number}").json()["name"] == "Item 07"
        with page.expect_response(f"**/items/{number}"):
            page.reload()
        page.get_by_label("Description").wait_for()
        name.fill("Item 7")
        page.get_by_role("button", name="Save").click()
        page.get_by_text("Element updated").or_(page.get_by_text("Item updated")).wait_for()
        stored = items.get(f"/items/{number}").json()
        assert (stored["name"], stored["description"]) == ("Item 7", "changed by another")
        page.goto(page.url.split("#")[0] + f"#/items/{number}")
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("button", name="Confirm").click()
        page.get_by_text("deleted").wait_for()
        assert items.get(f"/items/{number}").status_code == 404


@needs_npm
@needs_browser
def test_refine_sorts_pages_filters_edits_and_deletes(
    installed: Path, pages: str, items: httpx.Client
) -> None:
    run(installed, "npm", "run", "admin")
    with opened(expected="status of 412") as page:
        page.goto(f"{pages}/refine.html?url={items.base_url}&token={TOKEN}".replace("/&", "&"))
        names = page.locator("td:nth-of-type(2)")
        page.get_by_text("25 items, page 1 of 3").wait_for(timeout=15000)
        assert names.first.inner_text() == "Item 25"
        page.get_by_role("columnheader", name="Name").click()
        page.locator("td", has_text="Item 01").wait_for()
        assert names.all_inner_texts() == [f"Item {number:02}" for number in range(1, 11)]
        page.get_by_role("button", name="Next").click()
        page.locator("td", has_text="Item 11").wait_for()
        page.get_by_label("Name").fill("Item 07")
        page.get_by_text("1 items, page 1 of 1").wait_for()
        number = items.get("/items?name=Item%2007").json()[0]["id"]
        with page.expect_response(f"**/items/{number}"):
            page.locator("td", has_text="Item 07").click()
        page.get_by_role("button", name="Save").wait_for()
        items.patch(f"/items/{number}", json={"description": "changed by another"})
        page.get_by_label("Name").fill("Item 7")
        page.get_by_role("button", name="Save").click()
        page.get_by_text("The row has changed since you read it").wait_for()
        assert items.get(f"/items/{number}").json()["name"] == "Item 07"
        page.reload()
        page.get_by_label("Name").fill("Item 07")
        with page.expect_response(f"**/items/{number}"):
            page.locator("td", has_text="Item 07").first.click()
        page.get_by_role("button", name="Save").wait_for()
        page.get_by_label("Name").fill("Item 7")
        page.get_by_role("button", name="Save").click()
        page.get_by_role("columnheader", name="Name").wait_for()
        stored = items.get(f"/items/{number}").json()
        assert (stored["name"], stored["description"]) == ("Item 7", "changed by another")
        page.get_by_label("Name").fill("Item 7")
        page.locator("td", has_text="Item 7").first.click()
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("columnheader", name="Name").wait_for()
        assert items.get(f"/items/{number}").status_code == 404
