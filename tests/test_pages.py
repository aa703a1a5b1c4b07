"""The pages, followed to the letter in a fresh clone of the tree.

Every `sh` block is run, every `diff` applied, and what `console` and `log` blocks show is compared
with what comes, ids, times and dates aside.
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
from unittest import SkipTest

import httpx
import pytest
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from nutshell.tests.postgres import call_off, free_port, run_when_gone
from nutshell.tests.service import ROOT, copy_tree, plain_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# What differs from run to run.
VARYING = [
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d([.,]\d+)?"), "TIME"),
    (re.compile(r"(?m)^(date: ).*$"), r"\1DATE"),
    (re.compile(r"(?m)^(content-length: ).*$"), r"\1LENGTH"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "ID"),
    (re.compile(r'"[0-9a-f]{24}"'), "TAG"),
    (re.compile(r"(?<=Unprocessable )(Entity|Content)"), "PHRASE"),  # the latter from 3.13 on
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
        self.port = free_port()
        self.service: subprocess.Popen[bytes] | None = None
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
        command = command.replace("make run", "PORT=8000 make run")
        with self.log.open("a") as log:
            self.service = subprocess.Popen(
                ["bash", "-c", f"exec env {self.moved(command)}"],
                cwd=self.tree,
                env=self.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.killer = run_when_gone("kill -s KILL -- -$1", self.service.pid)
        self.wait_until_up(starts + 1)

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
        printed = self.follow("git apply change.diff && echo DONE")
        change.unlink()
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


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path)
    yield newcomer
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
        "stop": newcomer.stop_service,
        "release": newcomer.release,
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
