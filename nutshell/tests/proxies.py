"""Debian's nginx and Caddy, with no more than the one line that makes them a proxy, and as caches.

nginx also with a cache, and compressing; Varnish with its defaults, which are a cache.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path

import httpx
import pytest

from nutshell.tests.postgres import free_port
from nutshell.tests.service import Service

# nginx sends `Host: 127.0.0.1:PORT` and no header that tells it from a local caller. Caddy sends
# the caller's `Host`, and `X-Forwarded-For`. By itself root's nginx would serve as another user, who
# cannot write to the folder.
NGINX = """
daemon off;
user {user};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    MORE
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{service};
        }}
    }}
}}
"""
CACHE = """
    proxy_cache_path {folder}/cache keys_zone=cache:1m;
    proxy_cache cache;
    proxy_cache_valid 200 404 10m;
    add_header X-Cache $upstream_cache_status always;
"""
GZIP = """
    gzip on;
    gzip_vary on;
    gzip_proxied any;
    gzip_types application/json;
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


CONFIGS = {
    "nginx": NGINX.replace("MORE", ""),
    "nginx-cache": NGINX.replace("MORE", CACHE),
    "nginx-gzip": NGINX.replace("MORE", GZIP),
    "caddy": CADDY,
    "varnish": "",
}
# By program, its arguments.
COMMANDS = {
    "nginx": "nginx -e {folder}/error.log -c {folder}/config",
    "caddy": "caddy run --adapter=caddyfile --config {folder}/config",
    "varnish": "varnishd -F -j none -n {folder}/varnish -a 127.0.0.1:{port} -b 127.0.0.1:{service}",
}


@contextmanager
def behind(proxy: str, service: Service, folder: Path) -> Iterator[str]:
    """The URL of a proxy in front of the service."""
    values = {"folder": folder, "port": free_port(), "service": service.port, "user": getuser()}
    command = COMMANDS[proxy.partition("-")[0]].format(**values).split()
    program = shutil.which(command[0], path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip(f"Debian's {command[0]} is not installed")
    (folder / "config").write_text(CONFIGS[proxy].format(**values))
    environment = os.environ | {"HOME": str(folder)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program, *command[1:]], env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{values['port']}"
        until = time.monotonic() + 60
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
