"""Behind Debian's nginx and Caddy, with no more than the one line that makes them a proxy."""

from pathlib import Path

import httpx
import pytest

from nutshell.tests.proxies import behind
from nutshell.tests.service import BEARER, TOKEN, Service, Variables

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
def test_service_without_token_is_closed_behind_a_proxy(tmp_path: Path, proxy: str) -> None:
    variables: Variables = {"DATABASE_URL": f"sqlite:///{tmp_path}/test.db"}
    with Service(variables) as service:
        assert httpx.get(f"{service.url}/shelves").status_code == 403
        with behind(proxy, service, tmp_path) as url:
            for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
                assert httpx.get(url + path).status_code == 200
            for path in ("/shelves", "/books/1"):
                assert httpx.get(url + path).status_code == 403
            refused = httpx.post(f"{url}/shelves", json={"label": "a"})
            assert refused.status_code == 403
            assert "Set API_TOKEN" in refused.json()["detail"]


@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
def test_token_opens_it_behind_a_proxy(tmp_path: Path, proxy: str) -> None:
    variables: Variables = {"DATABASE_URL": f"sqlite:///{tmp_path}/test.db", "API_TOKEN": TOKEN}
    with Service(variables) as service, behind(proxy, service, tmp_path) as url:
        assert httpx.get(f"{url}/shelves").status_code == 401
        made = httpx.post(f"{url}/shelves", json={"label": "a"}, headers=BEARER)
        assert made.status_code == 201
        again = httpx.get(url + made.headers["location"], headers=BEARER)
        assert again.json() == made.json()
