"""What each platform runs, after its own source: how it reads our files and splits their words.

A source is named as owner/repository:path, as of August 2026. Where there is none to read, its
documentation is named.
"""

import fnmatch
import re
import shlex
import shutil
import signal
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nutshell.tests.service import ROOT, Variables, procfile

Command = list[str]


def launch(command: Command, arguments: Command, words: Command) -> Command:
    """What the launcher of a buildpack's image runs, given the words after the image's name.

    buildpacks/lifecycle:launch/process.go, handleUserArgs: they take the place of the process's
    arguments, and its command stays.
    """
    return [*command, *(words or arguments)]


def heroku(kind: str) -> Command:
    # devcenter.heroku.com/articles/procfile: a line is run by bash.
    return ["bash", "-c", procfile()[kind]]


def dokku(kind: str) -> Command:
    if kind == "release":
        # dokku/dokku:plugins/app-json/functions.go, constructScript
        return ["bash", "-c", f"set -e; set -o pipefail || true; {procfile()[kind]} || exit 1;"]
    # gliderlabs/herokuish:include/procfile.bash, procfile-exec
    return ["bash", "-c", 'exec $(eval echo "$@")', "herokuish", procfile()[kind]]


def fly(kind: str) -> Command:
    # heroku/buildpacks-procfile:src/launch.rs makes a process of each line, and the image starts
    # the one of `web`: superfly/flyctl:internal/appconfig/machines.go sets no other entrypoint.
    command, arguments = ["bash", "-c"], [procfile()["web"]]
    deploy = fly_file()["deploy"]
    words = shlex.split(deploy["release_command"]) if kind == "release" else []
    return launch(command, arguments, words)


def fly_file() -> dict[str, Any]:
    return tomllib.loads((ROOT / "fly.toml").read_text())


def railway(kind: str) -> Command:
    # railwayapp/railpack:buildkit/convert.go: the image's entrypoint.
    key = {"release": "preDeploy", "web": "start"}[kind]
    found = re.search(rf'\b{key}: "([^"]*)"', (ROOT / ".railway/railway.ts").read_text())
    assert found
    return ["/bin/bash", "-c", found[1]]


def render(kind: str) -> Command:
    # render.com/docs/blueprint-spec
    (service,) = yaml.safe_load((ROOT / "render.yaml").read_text())["services"]
    return ["bash", "-c", service[{"release": "preDeployCommand", "web": "startCommand"}[kind]]]


def cloud_run(kind: str) -> Command:
    # GoogleCloudPlatform/buildpacks:cmd/config/entrypoint/lib/lib.go makes a process of each line
    # of the Procfile, and pkg/gcpbuildpack/gcpbuildpack.go, AddProcess, puts bash -c before it. The
    # launcher starts the one by whose name it is called: buildpacks/lifecycle:phase/exporter.go
    # has these names in PATH.
    process = "web"
    if kind == "release":
        page = (ROOT / "docs/operating.md").read_text()
        (process,) = re.findall(r"gcloud run jobs deploy .*--command (\S+)", page)
    return launch(["bash", "-c", procfile()[process]], [], [])


def fastapi_run(kind: str) -> Command:
    # fastapi/fastapi-cli:src/fastapi_cli/cli.py. The platform has no release: whoever deploys runs it.
    return ["alembic", "upgrade", "head"] if kind == "release" else ["fastapi", "run"]


def azure(kind: str) -> Command:
    # microsoft/Oryx:src/startupscriptgenerator/src/python/scriptgenerator.go and frameworks.go
    if kind == "release":
        return ["alembic", "upgrade", "head"]
    worker = "gunicorn -k uvicorn_worker.UvicornWorker main:app --timeout 600"
    logs = "--access-logfile '-' --error-logfile '-'"
    return ["sh", "-c", f"exec {worker} {logs} --bind=0.0.0.0:$PORT"]


def uvicorn(kind: str) -> Command:
    # railwayapp/railpack:core/providers/python/python.go, where there is no Procfile
    line = "uvicorn main:app --host 0.0.0.0 --port ${PORT:-8000}"
    return ["alembic", "upgrade", "head"] if kind == "release" else ["bash", "-c", line]


@dataclass(frozen=True)
class Platform:
    name: str
    command: Callable[[str], Command]
    ignores: str | None = None
    variables: Variables = field(default_factory=dict)
    seconds: int = 30  # from the signal to SIGKILL
    own: bool = True  # it starts `python -m nutshell`


PLATFORMS = [
    # heroku/heroku-buildpack-python:vendor/WEB_CONCURRENCY.sh (a Standard-1X) and bin/compile
    Platform(
        "Heroku",
        heroku,
        ".slugignore",
        {"DYNO": "web.1", "WEB_CONCURRENCY": 2, "FORWARDED_ALLOW_IPS": "*"},
    ),
    Platform("Dokku", dokku, ".slugignore"),
    Platform("Fly", fly, ".dockerignore", {"FLY_APP_NAME": "nutshell"}, seconds=25),
    Platform("Railway", railway, ".railwayignore", {"RAILWAY_SERVICE_NAME": "web"}, seconds=25),
    Platform("Render", render, variables={"RENDER": "true"}),
    Platform("Cloud Run", cloud_run, ".gcloudignore", {"K_SERVICE": "nutshell"}, seconds=10),
    Platform("FastAPI Cloud", fastapi_run, ".fastapicloudignore", own=False),
    Platform("Azure", azure, variables={"WEBSITE_SITE_NAME": "nutshell"}, own=False),
    Platform("uvicorn", uvicorn, own=False),
]


def leave_out(tree: Path, ignores: str) -> None:
    """Removes what the platform does not take along: names, in any folder or from the root."""
    patterns = [line.removeprefix("**/") for line in (tree / ignores).read_text().split()]
    for path in sorted(tree.rglob("*")):
        name = path.relative_to(tree).as_posix()
        if path.exists() and any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


STOP = signal.SIGTERM  # fly.toml asks for it; all others send it unasked
