"""Debian's nginx and Caddy, with no more than the one line that makes them a proxy."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from nutshell.tests.postgres import free_port
from nutshell.tests.service import Service

# nginx sends `Host: 127.0.0.1:PORT` and no header that tells it from a local caller. Caddy sends
# the caller's `Host`, and `X-Forwarded-For`.
NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{service};
        }}
    }}
}}
"""
CADDY = """
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    reverse_proxy 127.0.0.1:{service}
}}
"""


@contextmanager
def behind(proxy: str, service: Service, folder: Path) -> Iterator[str]:
    """The URL of a proxy in front of the service."""
    program = shutil.which(proxy, path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip(f"Debian's {proxy} is not installed")
    port = free_port()
    config = folder / "config"
    template = NGINX if proxy == "nginx" else CADDY
    config.write_text(template.format(folder=folder, port=port, service=service.port))
    options = ["-e", f"{folder}/error.log"] if proxy == "nginx" else ["run", "--adapter=caddyfile"]
    command = [program, *options, "-c" if proxy == "nginx" else "--config", str(config)]
    environment = os.environ | {"HOME": str(folder)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 20
        while True:
            try:
                httpx.get(f"{url}/healthz").raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)
