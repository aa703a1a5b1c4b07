"""A copy of this project as a git repository, and commands that change it."""

import subprocess
import sys
from pathlib import Path

import pytest

from nutshell.scaffold.new import require_fresh
from nutshell.scaffold.tree import ScaffoldError, Tree
from nutshell.tests.service import ROOT, copy_tree, plain_environment

BIN = Path(sys.executable).parent


def git(tree: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=n@example.com")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=tree, check=True, capture_output=True, text=True
    )
    return done.stdout


def commit(tree: Path) -> None:
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "A state to come back to")


def make_repository(folder: Path) -> Path:
    tree = copy_tree(folder / "tree")
    git(tree, "init", "-q", "-b", "main")
    commit(tree)
    return tree


def is_nutshell() -> bool:
    """Whether this is Nutshell itself, and neither a service made of it nor one in the making."""
    try:
        require_fresh(Tree(ROOT))
    except ScaffoldError:
        return False
    return '"Nutshell"' in (ROOT / "main.py").read_text()


OF_NUTSHELL = pytest.mark.skipif(not is_nutshell(), reason="this is another service")


def run(tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=tree,
        env=plain_environment(),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def make(tree: Path, target: str, **variables: str) -> subprocess.CompletedProcess[str]:
    given = [f"{name}={value}" for name, value in variables.items()]
    return run(tree, "make", "--old-file=.venv/dev", f"BIN={BIN}", target, *given)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_repository(tmp_path)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For tests that change nothing."""
    return make_repository(tmp_path_factory.mktemp("unchanged"))
