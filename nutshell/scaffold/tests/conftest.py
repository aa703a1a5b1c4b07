"""A copy of this project as a git repository, for the commands to change."""

import subprocess
from pathlib import Path

import pytest

from nutshell.tests.service import copy_tree


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


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_repository(tmp_path)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For tests that change nothing."""
    return make_repository(tmp_path_factory.mktemp("unchanged"))
