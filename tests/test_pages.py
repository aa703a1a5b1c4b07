"""The pages, followed to the letter in a fresh clone of the tree.

Every `sh` block is run, every `diff` applied, and what `console` and `log` blocks show is compared
with what comes, ids, times and dates aside.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import SkipTest

import httpx
import pytest
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, SkipParser

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
        git = "git -c user.name=n -c user.email=n@example.com"
        commit = f"git init -q -b main && git add -A && {git} commit -qm copy"
        subprocess.run(["bash", "-c", commit], cwd=upstream, check=True)
        subprocess.run(["git", "clone", "-q", upstream, self.tree], check=True)

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

    def close_second(self, _: Example) -> None:
        self.stop_second()


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path)
    yield newcomer
    newcomer.stop_second()
    newcomer.stop()


# Pages in one group are followed one after the other, in one clone.
PAGES = [["README.md", "docs/api.md"], ["docs/operating.md"], ["LESSONS.md"], ["MAKE_IT_YOURS.md"]]


@pytest.mark.parametrize("pages", PAGES, ids=lambda pages: pages[-1])
def test_pages_do_what_they_say(newcomer: Newcomer, pages: list[str]) -> None:
    evaluators = {
        "sh": newcomer.sh,
        "console": newcomer.console,
        "diff": newcomer.diff,
        "log": newcomer.log_lines,
        "stop": newcomer.stop_service,
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
