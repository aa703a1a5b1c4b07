"""The service against its own OpenAPI document, by schemathesis: `make fuzz` takes longer."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import URL

import main
from nutshell.tests.service import ROOT, TOKEN, Service, Variables, checkout, migrate

pytestmark = pytest.mark.slow

EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "40")
SEED = os.environ.get("FUZZ_SEED", "20300131")


def test_service_keeps_what_its_document_promises(empty_url: URL) -> None:
    if empty_url.get_backend_name() != "sqlite":
        migrate(empty_url, checkout())
    variables: Variables = {"DATABASE_URL": empty_url, "API_TOKEN": TOKEN}
    with Service(variables, tree=checkout()) as service:
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                *("--config-file", "schemathesis.toml", "run", f"{service.url}/openapi.json"),
                *("--max-examples", EXAMPLES, "--seed", SEED, "--no-color"),
            ],
            cwd=ROOT / "tests",
            env=os.environ | {"API_TOKEN": TOKEN, "SCHEMATHESIS_HOOKS": "fuzz_hooks"},
            capture_output=True,
            text=True,
            timeout=3600,
            check=False,
        )
        summary = done.stdout[done.stdout.find("= SUMMARY") :]
        print(summary)
        assert done.returncode == 0, done.stdout
        operations = sum(len(methods) for methods in main.app.openapi()["paths"].values())
        assert re.search(rf"Tested: {operations}\b", summary)
        for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
            assert f"✅ {phase}" in summary
        assert " ERROR " not in service.log.read_text()
