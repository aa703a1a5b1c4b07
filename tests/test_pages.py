"""The pages, followed to the letter in a fresh clone of the tree.

Every `sh` block is run, every `diff` applied, and what `console` and `log` blocks show is compared
with what comes, ids, times and dates aside. What docs/api.md says about each resource and error is
compared with the document and with what the service answers.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import SkipTest

import httpx
import pytest
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, SkipParser

import main
from nutshell.errors import MESSAGES
from nutshell.openapi.guide import OVERVIEW
from nutshell.paging import Filter
from nutshell.settings import Settings
from nutshell.tests.postgres import call_off, free_port, run_when_gone, wait_until
from nutshell.tests.service import ROOT, copy_tree, plain_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# What differs from run to run.
VARYING = [
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d([.,]\d+)?"), "TIME"),
    (re.compile(r"(?m)^(date: ).*$"), r"\1DATE"),
    (re.compile(r"(?m)^(content-length: ).*$"), r"\1LENGTH"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "ID"),
    (re.compile(r'"[0-9a-f]{24}"'), "TAG"),
    (re.compile(r"(?m)^((?:down_)?revision = ).*$"), r"\1REVISION"),
    (re.compile(r"\d+\.\d+ ms|(?<=dur=)\d+\.\d+|(?<=in )\d+\.\d+s"), "DURATION"),
]
SERVERS = ("make run", "make run DATABASE=postgresql", "honcho start web")
STARTED = "Application startup complete"


def normal(text: str) -> str:
    for pattern, name in VARYING:
        text = pattern.sub(name, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


class Newcomer:
    """Does what a page says, in a clone of the tree, on a port of its own."""

    def __init__(self, folder: Path) -> None:
        upstream = copy_tree(folder / "upstream")
        self.tree = folder / "nutshell"
        self.log = folder / "log"
        self.log.touch()
        self.printed = ""  # by the last program
        self.port = free_port()
        self.second_port = free_port()
        self.service: subprocess.Popen[bytes] | None = None
        self.second: subprocess.Popen[bytes] | None = None
        bin_folder = self.tree / ".venv/bin"
        self.environment = plain_environment(bin_folder, HOME=str(folder))
        # In a terminal, curl shows no progress.
        (folder / ".curlrc").write_text("silent\n")
        # How pip reaches its packages on this machine.
        self.environment |= {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("PIP_", "SSL_", "REQUESTS_"))
        }
        for role in ("AUTHOR", "COMMITTER"):
            self.environment |= {f"GIT_{role}_NAME": "n", f"GIT_{role}_EMAIL": "n@example.com"}
        commit = "git init -q -b main && git add -A && git commit -qm copy"
        subprocess.run(["bash", "-c", commit], cwd=upstream, env=self.environment, check=True)
        subprocess.run(["git", "clone", "-q", upstream, self.tree], check=True)

    def use_installed_tools(self) -> None:
        """Spares the tree an installation: its `.venv` is the one that runs the tests."""
        own, installed = self.tree / ".venv", Path(sys.prefix)
        own.mkdir()
        for name in ("bin", "lib"):
            (own / name).symlink_to(installed / name)
        shutil.copy(installed / "pyvenv.cfg", own)
        for stamp in ("python", "run", "postgresql", "dev"):
            (own / stamp).touch()

    def moved(self, command: str) -> str:
        command = re.sub(r"(?<=[:= ])8001\b", str(self.second_port), command)
        return re.sub(r"(?<=[:=])8000\b", str(self.port), command)

    def run(self, command: str) -> str:
        """Runs the command in a shell, and returns what it prints."""
        done = subprocess.run(
            ["bash", "-c", self.moved(command)],
            cwd=self.tree,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=900,
            check=False,
        )
        return done.stdout.replace(f":{self.port}", ":8000")

    def sources(self) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in self.tree.glob("*.py")}

    def follow(self, command: str) -> str:
        """Runs the command. If that has changed the code, waits until the service has restarted."""
        before, starts = self.sources(), self.starts()
        printed = self.run(command)
        if self.service is not None and self.sources() != before:
            self.wait_until_up(starts + 1)
        return printed

    def starts(self) -> int:
        return self.log.read_text().count(STARTED)

    def wait_until_up(self, starts: int) -> None:
        deadline = time.monotonic() + 300  # the first start makes the virtual environment
        while True:
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.service is not None
            assert self.service.poll() is None, self.log.read_text()
            time.sleep(0.1)
            if self.starts() < starts:
                continue
            try:
                httpx.get(f"http://127.0.0.1:{self.port}/healthz")
            except httpx.TransportError:
                continue
            return

    def start(self, command: str) -> None:
        self.stop()
        starts = self.starts()
        # Where a page names no port it means 8000. honcho by itself would take 5000.
        self.service = self.launch(command.replace("make run", "PORT=8000 make run"), self.log)
        self.killer = run_when_gone("kill -s KILL -- -$1", self.service.pid)
        self.wait_until_up(starts + 1)

    def launch(self, command: str, output: Path) -> subprocess.Popen[bytes]:
        with output.open("a") as log:
            return subprocess.Popen(
                ["bash", "-c", f"exec env {self.moved(command)}"],
                cwd=self.tree,
                env=self.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def start_second(self, command: str) -> None:
        """Starts a service of a page's own, on port 8001."""
        log = self.log.with_name("second-log")
        self.second = self.launch(command, log)
        self.second_killer = run_when_gone("kill -s KILL -- -$1", self.second.pid)
        self.wait_for_second(1)

    def second_starts(self) -> int:
        log = self.log.with_name("second-log")
        return log.read_text().count(STARTED) if log.exists() else 0

    def wait_for_second(self, starts: int) -> None:
        wait_until(lambda: self.second_starts() >= starts, timeout=60)

    def stop_second(self) -> None:
        if self.second is not None:
            os.killpg(self.second.pid, signal.SIGTERM)
            self.second.wait(30)
            self.second = None
            call_off(self.second_killer)

    def stop(self) -> None:
        if self.service is not None:
            os.killpg(self.service.pid, signal.SIGTERM)  # as Ctrl-C in a terminal
            self.service.wait(30)
            self.service = None
            call_off(self.killer)

    # What to do with each kind of block. What they return says what went wrong.

    def sh(self, example: Example) -> str | None:
        *lines, last = [line.split("  #")[0].strip() for line in example.parsed.splitlines()]
        if last.endswith(SERVERS):
            for line in lines:
                printed = self.follow(line + " && echo DONE")
                if not printed.endswith("DONE\n"):
                    return f"{line} failed:\n{printed}"
            self.start(last)
            return None
        if last.endswith("--port 8001"):
            self.start_second(last)
            return None
        printed = self.follow("set -e\n" + example.parsed + "\necho 'DONE'")
        return None if printed.endswith("DONE\n") else f"it failed:\n{printed}"

    def console(self, example: Example) -> str | None:
        wrong = []
        for part in re.split(r"(?m)^\$ ", example.parsed)[1:]:
            command, _, expected = part.partition("\n")
            printed = self.follow(command)
            if normal(printed) != normal(expected):
                wrong.append(f"$ {command}\nwas to print\n{expected}\nbut printed\n{printed}")
        return "\n".join(wrong) or None

    def diff(self, example: Example) -> str | None:
        change = self.tree / "change.diff"
        change.write_text(example.parsed)
        starts, second_starts = self.starts(), self.second_starts()
        printed = self.follow("git apply change.diff && echo DONE")
        change.unlink()
        if self.second is not None:  # both services watch its file
            self.wait_for_second(second_starts + 1)
            self.wait_until_up(starts + 1)
        return None if printed == "DONE\n" else f"it does not apply:\n{printed}"

    def log_lines(self, example: Example) -> str | None:
        deadline = time.monotonic() + 10
        wanted = normal(example.parsed).splitlines()
        while True:
            seen = normal(self.log.read_text()).splitlines()
            missing = [line for line in wanted if line not in seen]
            if not missing:
                return None
            if time.monotonic() > deadline:
                return f"not in the log: {missing}\n{seen[-5:]}"
            time.sleep(0.1)

    def stop_service(self, _: Example) -> None:
        self.stop()

    def release(self, _: Example) -> None:
        """Publishes a later version where the newcomer has cloned from."""
        change = (
            "printf '\\n\\n# A later version.\\n' >> nutshell/fields.py && git commit -qam Later"
        )
        upstream = self.tree.with_name("upstream")
        subprocess.run(["bash", "-c", change], cwd=upstream, env=self.environment, check=True)

    def program(self, *command: str, text: str) -> str | None:
        """Runs a program of a caller, who has a Python with httpx, or a Node.js."""
        done = subprocess.run(
            command, input=self.moved(text), capture_output=True, text=True, timeout=60, check=False
        )
        self.printed = done.stdout
        return done.stderr if done.returncode else None

    def python(self, example: Example) -> str | None:
        return self.program(sys.executable, "-", text=example.parsed)

    def javascript(self, example: Example) -> str | None:
        if shutil.which("node") is None:
            raise SkipTest("Node.js is not installed")
        return self.program("node", "--input-type=module", "-", text=example.parsed)

    def text(self, example: Example) -> str | None:
        """What the last program printed, if there was one."""
        return None if self.printed in ("", example.parsed) else f"it printed\n{self.printed}"

    def close_second(self, _: Example) -> None:
        self.stop_second()


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path)
    yield newcomer
    newcomer.stop_second()
    newcomer.stop()


# Pages in one group are followed one after the other, in one clone.
PAGES = [["README.md", "docs/api.md"], ["docs/operating.md"], ["LESSONS.md"]]


@pytest.mark.parametrize("pages", PAGES, ids=lambda pages: pages[-1])
def test_pages_do_what_they_say(newcomer: Newcomer, pages: list[str]) -> None:
    follow_pages(newcomer, pages)


def test_recipes_do_what_they_say(newcomer: Newcomer) -> None:
    """All of them in one tree, and at the end the tests of all, on both databases."""
    newcomer.use_installed_tools()
    follow_pages(newcomer, ["docs/recipes.md"])


def follow_pages(newcomer: Newcomer, pages: list[str]) -> None:
    evaluators = {
        "sh": newcomer.sh,
        "console": newcomer.console,
        "diff": newcomer.diff,
        "log": newcomer.log_lines,
        "python": newcomer.python,
        "javascript": newcomer.javascript,
        "text": newcomer.text,
        "stop": newcomer.stop_service,
        "release": newcomer.release,
        "close": newcomer.close_second,
    }
    parsers = [CodeBlockParser(kind, evaluator) for kind, evaluator in evaluators.items()]
    for page in pages:
        document = Document.parse(str(ROOT / page), *parsers, SkipParser())
        examples = list(document.examples())
        assert examples
        for example in examples:
            try:
                example.evaluate()
            except SkipTest as skipped:
                print(f"{page}, line {example.line}: {skipped}")
        kinds = re.findall(r"(?m)^```(\w+)$", document.text)
        assert set(kinds) <= evaluators.keys(), "a block that nobody looks at"


def test_make_it_yours_does_what_it_says(newcomer: Newcomer) -> None:
    newcomer.use_installed_tools()  # the other pages install theirs
    follow_pages(newcomer, ["MAKE_IT_YOURS.md"])


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def test_links_between_pages_lead_somewhere() -> None:
    folders = (".", ".github", "docs", "lab", "lab/*")
    pages = [page for folder in folders for page in ROOT.glob(f"{folder}/*.md")]
    texts = {path: re.sub(r"(?ms)^```.*?^```", "", path.read_text()) for path in pages}
    headings = {
        path: {anchor(heading) for heading in re.findall(r"(?m)^#+ (.*)$", text)}
        for path, text in texts.items()
    }
    linked = set()
    for path, text in texts.items():
        for link in re.findall(r'\]\(([^)]+)\)|(?:src|srcset)="([^"]+)"', text):
            target, _, section = "".join(link).partition("#")
            if target.startswith("http"):
                continue
            found = (path.parent / target).resolve() if target else path
            assert found.exists(), f"{path.name}: {target}"
            assert not section or section in headings[found], f"{path.name}: #{section}"
            linked.add(found)
    assert set(pages) - {ROOT / "README.md"} <= linked, "a page that no page leads to"


# docs/api.md against the document

API = (ROOT / "docs/api.md").read_text()
DOCUMENT = main.app.openapi()
SCHEMAS = DOCUMENT["components"]["schemas"]
TAGS = [tag["name"] for tag in DOCUMENT["tags"] if tag["name"] != "health"]


def section(title: str) -> str:
    return API.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def table(text: str) -> list[list[str]]:
    """The cells of the table's rows, without its head."""
    lines = re.findall(r"(?m)^\| (.*?) ?\|$", text)
    return [re.split(r" ?\| ?", line) for line in lines[1:] if not line.startswith("---")]


def operations(tag: str) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
        if operation["tags"] == [tag]
    }


def schema_of(content: dict[str, Any]) -> dict[str, Any]:
    schema = content["content"]["application/json"]["schema"]
    found: dict[str, Any] = SCHEMAS[schema.get("items", schema)["$ref"].rpartition("/")[2]]
    return found


def in_words(schema: dict[str, Any]) -> str:
    """The type of a field as docs/api.md writes it."""
    if "anyOf" in schema:
        kind = in_words(schema["anyOf"][0])
        return f"{kind}, or null" if "," in kind else f"{kind} or null"
    if "$ref" in schema:
        return "object"
    if "format" in schema:
        words = {"date-time": "date-time", "idn-email": "e-mail address", "int64": "integer"}
        return words[schema["format"]]
    if schema["type"] != "string":
        return str(schema["type"])
    least, most = schema.get("minLength"), schema["maxLength"]
    return f"text, {least} to {most} characters" if least else f"text, up to {most} characters"


@pytest.mark.parametrize("tag", TAGS)
def test_page_for_callers_has_every_operation_and_field(tag: str) -> None:
    text = section(tag.capitalize())
    found = operations(tag)
    assert re.findall(r"`([A-Z]+ /[^`]*)`", text.partition("\n|")[0]) == list(found)
    create = next(schema_of(o["requestBody"]) for key, o in found.items() if key.startswith("POST"))
    patch = next(o for key, o in found.items() if key.startswith("PATCH"))
    fields = []
    for name, schema in schema_of(patch["responses"]["200"])["properties"].items():
        sent = create["properties"].get(name)
        use = "required" if name in create["required"] else "optional"
        fields.append([f"`{name}`", in_words(sent or schema), use if sent else "read-only"])
    assert [row[:3] for row in table(text)] == fields


@pytest.mark.parametrize("tag", TAGS)
def test_page_for_callers_has_every_filter(tag: str) -> None:
    text = " ".join(section(tag.capitalize()).split())
    parameters = operations(tag)[f"GET /{tag}"]["parameters"]
    queries = {p["name"]: p["schema"] for p in parameters if p["in"] == "query"}
    filters, _, sort = text.partition("Filters: ")[2].partition(" Sort by ")
    named = re.findall("`([^`]+)`", re.sub(r"\(.*?\)", "", filters))
    assert named == [name for name in queries if name not in Filter.model_fields]
    assert re.findall("`([^`]+)`", sort.partition(".")[0]) == queries["sort"]["enum"]


def test_page_for_callers_has_every_parameter_of_lists_and_every_status() -> None:
    names = {name for row in table(section("Lists")) for name in re.findall("`([a-z]+)`", row[0])}
    assert names == Filter.model_fields.keys()
    found = table(section("Errors").partition("Each entry")[0])
    statuses = {status for row in found for status in row[0].split(", ")}
    assert DOCUMENT["components"]["responses"].keys() <= statuses


# By type, the request that it refuses.
REFUSED: dict[str, tuple[str, str, Any]] = {
    "unique": ("POST", "/users", {"email": "ada@example.com", "name": "Ada"}),
    "foreign_key": ("POST", "/items", {"name": "a", "owner_id": 2000}),
    "missing": ("POST", "/users", {"email": "eve@example.com"}),
    "extra_forbidden": ("GET", "/items?_=1700000000", None),
    "read_only": ("PATCH", "/users/1", {"id": 2}),
    "repeated": ("GET", "/items?limit=1&limit=2", None),
    "cursor": ("GET", "/items?sort=name&cursor=x", None),
    "key_reused": ("POST", "/items", {"name": "b"}),
    "json_invalid": ("POST", "/users", b"{"),
    "model_attributes_type": ("POST", "/users", []),
    "list_type": ("POST", "/items/batch", {}),
    "string_type": ("POST", "/items", {"name": 1}),
    "bool_type": ("POST", "/todos", {"title": "a", "owner_id": 1, "done": "yes"}),
    "int_type": ("POST", "/items", {"name": "a", "owner_id": {}}),
    "finite_number": ("POST", "/items", b'{"name": "a", "owner_id": NaN}'),
    "int_from_float": ("POST", "/todos", {"title": "a", "owner_id": 1.5}),
    "string_too_short": ("POST", "/items", {"name": ""}),
    "string_too_long": ("POST", "/items", {"name": "a" * 201}),
    "string_pattern_mismatch": ("POST", "/items", {"name": "\0"}),
    "string_unicode": ("POST", "/items", b'{"name": "\\ud800"}'),
    "greater_than_equal": ("GET", "/items?limit=0", None),
    "less_than_equal": ("GET", "/items?limit=101", None),
    "too_short": ("POST", "/items/batch", []),
    "too_long": ("POST", "/items/batch", [{"name": "a"}] * 101),
    "literal_error": ("GET", "/items?order=up", None),
    "timezone_aware": ("GET", "/todos?due_after=2030-01-31T12:00:00", None),
    "datetime_from_date_parsing": ("GET", "/todos?due_after=2030-02-30T12:00:00Z", None),
    "value_error": ("GET", "/users?email=ada", None),
}


async def test_page_for_callers_has_the_types_of_errors(
    client: httpx.AsyncClient, user: dict[str, Any]
) -> None:
    rows = table(section("Errors").partition("Each entry")[2])
    statuses = {kind: row[1] for row in rows for kind in re.findall(r"`(\w+)`", row[0])}
    assert statuses.keys() == REFUSED.keys()
    key = {"idempotency-key": "a"}
    await client.post("/items", json={"name": "a"}, headers=key)
    for kind, (method, path, data) in REFUSED.items():
        assert f"`{kind}`" in OVERVIEW
        body = {"content": data} if isinstance(data, bytes) else {"json": data}
        headers = {"content-type": "application/json"} | (key if kind == "key_reused" else {})
        answer = await client.request(method, path, headers=headers, **body)
        assert str(answer.status_code) == statuses[kind], kind
        assert answer.json()["errors"][0]["type"] == kind, answer.text
    files = (ROOT / "nutshell").glob("*.py")
    sources = "".join(path.read_text() for path in files)
    own = set(re.findall(r'"type": "(\w+)"\}', sources)) | MESSAGES.keys()
    # No table of these resources has a CHECK or exclusion constraint.
    assert own - {"check", "exclusion"} <= REFUSED.keys()


def test_defaults_of_settings_are_those_that_the_page_names() -> None:
    page = (ROOT / "docs/operating.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", page, re.MULTILINE))
    names = {name.upper(): field for name, field in Settings.model_fields.items()}
    assert rows.keys() >= names.keys()
    words: dict[str, Any] = {"none": (None, "", []), "off": (False,)}
    for name, field in names.items():
        shown = rows[name].strip("`")
        default = field.default
        if isinstance(default, bool):
            shown = shown.replace("true", "True")
        assert default in words.get(shown, ()) or str(default) == shown, name
