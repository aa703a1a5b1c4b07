"""The service below a path of a site, behind nginx and Caddy, which take that path off."""

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from nutshell.tests.postgres import free_port, wait_until
from nutshell.tests.service import BEARER, TOKEN, Service

NGINX = """
daemon off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    server {{
        listen 127.0.0.1:{port};
        location /api/ {{ proxy_pass http://127.0.0.1:{service}/; }}
    }}
}}
"""

CADDY = """
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    handle_path /api/* {{
        reverse_proxy 127.0.0.1:{service}
    }}
}}
"""

PROXIES = {
    "nginx": (NGINX, ["nginx", "-c"], "/usr/sbin"),
    "caddy": (CADDY, ["caddy", "run", "--adapter", "caddyfile", "--config"], "/usr/bin"),
}


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    database = f"sqlite:///{tmp_path}/test.db"
    variables = {"API_TOKEN": TOKEN, "ROOT_PATH": "/api", "DATABASE_URL": database}
    with Service(dict(variables)) as service:
        yield service


@pytest.fixture(params=PROXIES)
def site(request: pytest.FixtureRequest, tmp_path: Path, service: Service) -> Iterator[str]:
    """The address of the proxy."""
    text, command, folder = PROXIES[request.param]
    program = shutil.which(command[0], path=folder)
    if program is None:
        pytest.skip(f"Debian's {command[0]} is not installed")
    port = free_port()
    config = tmp_path / "config"
    config.write_text(text.format(folder=tmp_path, port=port, service=service.port))
    with (tmp_path / "log").open("w") as log:
        arguments = [program, *command[1:], str(config)]
        process = subprocess.Popen(arguments, stdout=log, stderr=log, env={"HOME": str(tmp_path)})
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: is_up(f"{url}/api/healthz"))
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def is_up(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.slow
def test_sub_path_is_in_every_reference(site: str) -> None:
    with httpx.Client(headers=BEARER) as client:
        for title in ("a", "b"):
            created = client.post(f"{site}/api/books", json={"title": title})
            assert created.status_code == 201
            location = created.headers["location"]
            assert client.get(urljoin(f"{site}/api/books", location)).json()["title"] == title
        listed = client.get(f"{site}/api/books?limit=1")
        further = listed.links["next"]["url"]
        assert client.get(urljoin(str(listed.url), further)).json()[0]["title"] == "b"
        home = client.get(f"{site}/api/", follow_redirects=True)
        assert str(home.url) == f"{site}/api/docs"
        assets = re.findall(r'(?:href|src)="(/[^"]+)"', home.text)
        (document,) = re.findall(r"url: '([^']+)'", home.text)
        assert len(assets) == 3
        for path in (*assets, document):
            assert client.get(urljoin(site, path)).status_code == 200
        (server,) = client.get(urljoin(site, document)).json()["servers"]
        assert client.get(f"{site}{server['url']}/books").status_code == 200
        assert client.get(f"{site}/api/nowhere").status_code == 404
