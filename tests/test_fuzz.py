"""The service against its own OpenAPI document, by schemathesis: `make fuzz` takes longer."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import URL

import main
from nutshell.tests.service import ROOT, TOKEN, Service, Variables, checkout, migrate
from tests.rows import HEADERS, OWN_RULES, VARIABLES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

EXAMPLES = os.environ.get("FUZZ_EXAMPLES", "40")
SEED = os.environ.get("FUZZ_SEED", "20300131")


# Other methods find the path of a single row here, which documents 422 for an id such as "batch".
SIBLING = """
[[operations]]
include-path-regex = {}
checks.unsupported_method.enabled = false
checks.allow_header_conformance.enabled = false
"""
CREDENTIALS = """
[auth.openapi.{}]
{} = {}
"""


def configuration() -> str:
    """schemathesis.toml, with credentials and with the paths that a path with a parameter matches too."""
    document = main.app.openapi()
    parts = [(ROOT / "tests/schemathesis.toml").read_text()]
    given = {name.lower(): value for name, value in ({"Authorization": TOKEN} | HEADERS).items()}
    for name, scheme in document["components"]["securitySchemes"].items():
        kind = "api_key" if scheme["type"] == "apiKey" else "bearer"
        value = given.get(scheme.get("name", "authorization").lower(), "")
        parts.append(CREDENTIALS.format(name, kind, json.dumps(value.removeprefix("Bearer "))))
    patterns = {path: re.sub(r"{\w+}", "[^/]+", path) for path in document["paths"]}
    for path in patterns:
        if any(other != path and re.fullmatch(patterns[other], path) for other in patterns):
            parts.append(SIBLING.format(json.dumps(f"^{re.escape(path)}$")))
    return "".join(parts)


def test_service_keeps_what_its_document_promises(empty_url: URL, tmp_path: Path) -> None:
    if empty_url.get_backend_name() != "sqlite":
        migrate(empty_url, checkout())
    variables: Variables = {"DATABASE_URL": empty_url, "API_TOKEN": TOKEN, **VARIABLES}
    (tmp_path / "schemathesis.toml").write_text(configuration())
    with Service(variables, tree=checkout()) as service:
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                *(
                    "--config-file",
                    tmp_path / "schemathesis.toml",
                    "run",
                    f"{service.url}/openapi.json",
                ),
                *("--max-examples", EXAMPLES, "--seed", SEED, "--no-color"),
            ],
            cwd=ROOT / "tests",
            env=os.environ | {"SCHEMATHESIS_HOOKS": "fuzz_hooks", "OWN_RULES": " ".join(OWN_RULES)},
            capture_output=True,
            text=True,
            timeout=3000,
            check=False,
        )
        summary = done.stdout[done.stdout.find("= SUMMARY") :]
        print(summary)
        assert done.returncode == 0, done.stdout
        assert "Authentication failed" not in done.stdout, "HEADERS in rows.py"
        operations = sum(len(methods) for methods in main.app.openapi()["paths"].values())
        assert re.search(rf"Tested: {operations}\b", summary)
        for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
            assert f"✅ {phase}" in summary
        assert " ERROR " not in service.log.read_text()
