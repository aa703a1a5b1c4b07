"""A real Patroni cluster for the tests: three nodes on 127.0.0.1, which agree by Raft.

All of it comes from PyPI. In production the nodes agree by etcd or Consul.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
import psycopg
from sqlalchemy import URL

from nutshell.tests.postgres import PASSWORD, USER, copy_programs, free_port, wait_until
from nutshell.tests.service import as_platforms_write, children, freeze, plain_environment, thaw

TTL = 20  # seconds that a silent leader stays leader: the fewest that Patroni accepts
SETTINGS: dict[str, Any] = {
    "ttl": TTL,
    "loop_wait": 1,
    "retry_timeout": 5,
    "primary_start_timeout": 0,  # in place of a leader that crashed, another takes over at once
    "synchronous_mode": True,
    "postgresql": {"use_pg_rewind": True},
}


def may_run() -> bool:
    """Whether PostgreSQL's user can read this Python environment, which has Patroni."""
    command = [sys.executable, "-c", "import patroni, pysyncobj, psycopg"]
    try:
        return subprocess.run(command, user=USER, capture_output=True, check=False).returncode == 0
    except PermissionError:
        return False


class Node:
    """A PostgreSQL, and the Patroni that minds it."""

    def __init__(self, folder: Path, programs: Path, raft: str, partners: list[str]) -> None:
        self.name = folder.name
        self.frozen: list[int] = []
        self.data = folder / "data"
        self.log = folder / "log"
        self.port = free_port()
        self.api = f"127.0.0.1:{free_port()}"
        address = f"127.0.0.1:{self.port}"
        logins = {
            role: {"username": name, "password": PASSWORD}
            for role, name in (("superuser", "nutshell"), ("replication", "replicator"))
        }
        self.configuration = folder / "patroni.yml"
        self.configuration.write_text(  # JSON is YAML
            json.dumps(
                {
                    "scope": "nutshell",
                    "name": self.name,
                    "restapi": {"listen": self.api, "connect_address": self.api},
                    "raft": {
                        "data_dir": str(folder / "raft"),
                        "self_addr": raft,
                        "partner_addrs": partners,
                    },
                    "bootstrap": {
                        "dcs": SETTINGS,
                        "initdb": [
                            {"encoding": "UTF8"},
                            {"locale-provider": "builtin"},
                            {"builtin-locale": "C.UTF-8"},
                            "no-sync",
                        ],
                    },
                    "postgresql": {
                        "listen": address,
                        "connect_address": address,
                        "data_dir": str(self.data),
                        "bin_dir": str(programs),
                        "pgpass": str(folder / "pgpass"),
                        "authentication": logins,
                        "parameters": {"unix_socket_directories": ""},
                        "pg_hba": [
                            f"host {database} all 127.0.0.1/32 scram-sha-256"
                            for database in ("all", "replication")
                        ],
                    },
                    "watchdog": {"mode": "off"},
                }
            )
        )

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "patroni", self.configuration],
                env=plain_environment(),
                stdout=log,
                stderr=log,
                user=USER,
            )

    def postgres(self) -> list[int]:
        """The processes of its PostgreSQL, the first one first."""
        with suppress(OSError):
            first = int((self.data / "postmaster.pid").read_text().split()[0])
            if str(self.data).encode() in Path(f"/proc/{first}/cmdline").read_bytes():
                return [first, *children(first)]
        return []

    def kill_postgres(self) -> None:
        """As the kernel does when memory runs out. Its children notice, and end too."""
        os.kill(self.postgres()[0], signal.SIGKILL)

    def kill(self) -> None:
        """As a power cut does."""
        self.process.kill()
        self.process.wait(10)
        self.kill_postgres()

    def freeze(self) -> None:
        self.frozen = [*freeze(self.process.pid), *freeze(self.postgres()[0])]

    def give_up_leading(self) -> None:
        """An operator's switchover, before the machine is maintained."""
        answer = httpx.post(f"http://{self.api}/switchover", json={"leader": self.name}, timeout=30)
        assert answer.status_code == 200, answer.text

    def revive(self) -> None:
        """Undoes `kill` and `freeze`."""
        thaw(self.frozen)
        self.frozen = []
        if self.process.poll() is not None:
            self.start()


class Patroni:
    """Three nodes, of which one leads and another has every write that is acknowledged."""

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="nutshell-patroni-"))
        programs = copy_programs(self.folder)
        rafts = [f"127.0.0.1:{free_port()}" for _ in range(3)]
        self.nodes = []
        for name, raft in zip(("one", "two", "three"), rafts, strict=True):
            (self.folder / name).mkdir()
            partners = [other for other in rafts if other != raft]
            self.nodes.append(Node(self.folder / name, programs, raft, partners))
        if USER:
            for path in (self.folder, *(self.folder / node.name for node in self.nodes)):
                shutil.chown(path, USER)
        for node in self.nodes:
            node.start()
        try:
            self.wait_until_whole()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        wait_until(lambda: not self.kill_all())
        for node in self.nodes:
            node.process.wait(10)
        shutil.rmtree(self.folder)

    def kill_all(self) -> list[int]:
        """Whatever runs in the folder: Patroni, PostgreSQL, and what Patroni starts to repair one."""
        killed = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            where = [process.info["cwd"] or "", *(process.info["cmdline"] or [])]
            if any(str(self.folder) in part for part in where):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
                killed.append(process.pid)
        return killed

    def members(self) -> list[dict[str, Any]]:
        """What one of the nodes says of all."""
        for node in self.nodes:
            with suppress(httpx.HTTPError):
                members = httpx.get(f"http://{node.api}/cluster", timeout=1).json()["members"]
                return list(members)
        return []

    def leader(self) -> Node | None:
        """The node that says that it leads. Between two of them there is none."""
        for node in self.nodes:
            with suppress(httpx.HTTPError):
                if httpx.get(f"http://{node.api}/primary", timeout=1).status_code == 200:
                    return node
        return None

    def is_whole(self) -> bool:
        members = self.members()
        roles = sorted(member["role"] for member in members)
        states = {member["state"] for member in members}
        return roles == ["leader", "replica", "sync_standby"] and states == {"running", "streaming"}

    def wait_until_whole(self) -> None:
        self.wait(self.is_whole, 60)

    def wait_for_another_leader(self, old: Node) -> None:
        self.wait(lambda: self.leader() not in (None, old), TTL + 10)

    def wait(self, condition: Callable[[], bool], timeout: float) -> None:
        try:
            wait_until(condition, timeout)
        except TimeoutError:
            logs = [node.log.read_text()[-3000:] for node in self.nodes]
            raise TimeoutError("\n\n".join([str(self.members()), *logs])) from None

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """The rows, if any, of one statement, which the leader carries out."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def url(self, database: str = "postgres") -> str:
        """Every node by name; libpq finds the one that writes."""
        url = URL.create("postgresql", "nutshell", PASSWORD, "hosts", database=database)
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        written = as_platforms_write(url).replace("@hosts/", f"@{hosts}/")
        return f"{written}?target_session_attrs=read-write"
