"""What the tests start ends with their process, however that ends."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from nutshell.tests.postgres import wait_until
from nutshell.tests.service import ROOT

START = """
import time
from nutshell.tests.postgres import Postgres
server = Postgres()
print(server.folder, server.port, flush=True)
time.sleep(600)
"""

START_SERVICE = """
import time
from nutshell.tests.service import Service
with Service({"WEB_CONCURRENCY": 2}) as service:
    print(service.process.pid, flush=True)
    time.sleep(600)
"""

pytestmark = pytest.mark.slow


def answers(port: int) -> bool:
    try:
        psycopg.connect(host="127.0.0.1", port=port, user="nobody", connect_timeout=5)
    except psycopg.OperationalError as error:
        return "refused" not in str(error)
    return True


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_server_ends_and_its_folder_goes_with_the_process(number: signal.Signals) -> None:
    command = [sys.executable, "-c", START]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder, port = process.stdout.readline().split()
        assert answers(int(port))
        process.send_signal(number)
        assert process.wait(10) == -number
    wait_until(lambda: not Path(folder).exists(), 30)
    wait_until(lambda: not answers(int(port)), 30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_service_and_its_workers_end_with_the_process(number: signal.Signals) -> None:
    command = [sys.executable, "-c", START_SERVICE]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        group = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(10) == -number

    def group_runs() -> bool:
        with suppress(ProcessLookupError):
            os.killpg(group, 0)
            return True
        return False

    wait_until(lambda: not group_runs(), 30)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_command_ends_with_its_server(number: signal.Signals) -> None:
    """As `make run DATABASE=postgresql`."""
    script = "import os; print(os.getpid(), os.environ['DATABASE_URL'], flush=True); input()"
    module = ["-m", "nutshell.tests.postgres", sys.executable, "-c", script]
    with subprocess.Popen(
        [sys.executable, *module],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        pid, url = next(line for line in lines if "postgresql+psycopg" in line).split()
        port = int(url.rpartition(":")[2].partition("/")[0])
        assert answers(port)
        process.send_signal(number)
        process.wait(30)

        def command_runs() -> bool:
            with suppress(ProcessLookupError):
                os.kill(int(pid), 0)
                return True
            return False

        wait_until(lambda: not command_runs(), 30)
        wait_until(lambda: not answers(port), 30)
