"""The tests of the upper floor hold for a service that is unlike ours: see invoicing/."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nutshell.tests.service import ROOT, alembic, copy_tree, plain_environment

pytestmark = pytest.mark.slow

INVOICING = ROOT / "nutshell/tests/invoicing"


def copy_invoicing(folder: Path) -> Path:
    """What a platform would check out, with invoicing in the place of our resources."""
    copy_tree(folder)
    shutil.copy(INVOICING / "service.py", folder / "main.py")
    (folder / "models.py").write_text("from main import *  # noqa: F403\n")
    shutil.copy(INVOICING / "rows.py", folder / "tests/rows.py")
    versions = folder / "migrations/versions"
    for file in versions.glob("*.py"):
        file.unlink()
    scratch = f"sqlite:///{folder}/scratch.db"
    done = alembic(scratch, "revision", "--autogenerate", "-m", "Create all", tree=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    # The tests copy what git tracks, or would.
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def run_tests(tree: Path, *options: str) -> int:
    """Returns how many passed, which is all of them."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *options],
        cwd=tree,
        env=plain_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(done.stdout[-20_000:])
    assert done.returncode == 0, done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    return int(passed[1])


def test_upper_tests_hold_for_invoicing(tmp_path: Path) -> None:
    tree = copy_invoicing(tmp_path / "tree")
    fast = ("-m", "not slow and not soak")
    assert run_tests(tree, *fast, "tests/test_contract.py", "tests/test_migrations.py") > 200


def test_invoicing_keeps_what_its_document_promises(tmp_path: Path) -> None:
    tree = copy_invoicing(tmp_path / "tree")
    assert run_tests(tree, "-m", "slow", "tests/test_fuzz.py", "-k", "sqlite") == 1
