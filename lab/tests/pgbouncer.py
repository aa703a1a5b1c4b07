"""A real PgBouncer for the tests, from Debian's package, in transaction mode."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
from sqlalchemy import URL

from nutshell.tests.postgres import PASSWORD, Postgres, free_port

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


class PgBouncer:
    def __init__(self, server: Postgres, database: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nutshell-pgbouncer-"))
        self.port = free_port()
        self.database = database
        target = f"host=127.0.0.1 port={server.port} user=nutshell password={PASSWORD}"
        configuration = self.folder / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\n{database} = {target}\n"
            "[pgbouncer]\npool_mode = transaction\nauth_type = any\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            # Fewer connections to the server than the service holds to PgBouncer.
            "default_pool_size = 2\nserver_tls_sslmode = disable\n"
        )
        user = None
        if os.geteuid() == 0:
            user = "nobody"  # PgBouncer refuses to run as root
            shutil.chown(self.folder, user)
        assert PROGRAM is not None
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [PROGRAM, configuration], stdout=log, stderr=log, user=user
            )

    def url(self) -> URL:
        return URL.create(
            "postgresql+psycopg", "nutshell", PASSWORD, "127.0.0.1", self.port, self.database
        )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 10
        while True:
            try:
                url = self.url().set(drivername="postgresql")
                psycopg.connect(url.render_as_string(hide_password=False)).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.05)
            else:
                return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.folder)
