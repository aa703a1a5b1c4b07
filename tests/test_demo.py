"""`make demo` fills a running service."""

import subprocess
import sys
from pathlib import Path

import pytest

from nutshell.tests.service import TOKEN, Service, checkout, plain_environment
from tests.demo import ROWS


@pytest.mark.slow
def test_demo_adds_its_rows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/test.db"
    with Service({"DATABASE_URL": url, "API_TOKEN": TOKEN}, tree=checkout()) as service:
        done = subprocess.run(
            [sys.executable, "-m", "tests.demo"],
            cwd=checkout(),
            env=plain_environment(PORT=service.port, API_TOKEN=TOKEN),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout == f"Added {len(ROWS)} rows to {service.url}\n", done.stderr
