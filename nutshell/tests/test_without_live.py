"""The live view's folder can be deleted."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nutshell.tests.service import copy_tree, plain_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(700)]

BIN = Path(sys.executable).parent
# What has to do with its hooks.
TOUCHED = ("access", "background", "engines", "middleware", "session", "settings", "snapshot")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = copy_tree(tmp_path_factory.mktemp("without") / "tree")
    shutil.rmtree(tree / "nutshell/live")
    # As `git rm` leaves it.
    (tree / "nutshell/live/__pycache__").mkdir(parents=True)
    return tree


def run(tree: Path, *command: str, trace: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=tree,
        env=plain_environment(TRACE=trace),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_checks_pass(tree: Path) -> None:
    done = run(tree, "make", "--old-file=.venv/dev", f"BIN={BIN}", "check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Success: no issues found" in done.stdout


def test_tests_pass(tree: Path) -> None:
    files = [f"nutshell/tests/test_{name}.py" for name in TOUCHED]
    options = ["-q", "-n", "2", "-m", "not slow and not soak"]
    done = run(tree, sys.executable, "-m", "pytest", *options, "tests/test_contract.py", *files)
    assert done.returncode == 0, done.stdout + done.stderr


def test_tests_are_found_by_folder(tree: Path) -> None:
    folders = ("tests", "nutshell")
    done = run(tree, sys.executable, "-m", "pytest", "-q", "-n", "0", "--collect-only", *folders)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nutshell/tests/test_engines.py::" in done.stdout
    assert "live/tests" not in done.stdout


def test_trace_ends_the_start_with_one_line(tree: Path) -> None:
    for command in (["-m", "nutshell"], ["-m", "uvicorn", "main:app"]):
        done = run(tree, sys.executable, *command, trace=1)
        assert done.returncode == 1
        assert done.stderr == "TRACE: the live view is not here: nutshell/live was deleted\n"


def test_make_run_does_not_ask_for_it(tree: Path) -> None:
    for place, asked in ((tree, False), (Path(__file__).parents[2], True)):
        done = run(place, "make", "--dry-run", "--old-file=.venv/run", "run")
        assert done.returncode == 0, done.stderr
        assert ("TRACE=1" in done.stdout) is asked
