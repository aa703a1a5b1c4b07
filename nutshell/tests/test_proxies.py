"""Behind Debian's nginx and Caddy, with no more than the one line that makes them a proxy, and caches."""

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


CACHES = ["nginx-cache", "nginx-gzip", "varnish"]


@pytest.mark.parametrize("proxy", CACHES)
def test_cache_shows_neither_stale_rows_nor_those_of_other_callers(
    tmp_path: Path, proxy: str
) -> None:
    variables: Variables = {"DATABASE_URL": f"sqlite:///{tmp_path}/test.db", "API_TOKEN": TOKEN}
    with (
        Service(variables) as service,
        behind(proxy, service, tmp_path) as url,
        httpx.Client(base_url=url, headers=BEARER, timeout=30) as client,
    ):
        row = client.post("/books", json={"title": "a"}).json()
        path = f"/books/{row['id']}"
        for title in ("a", "b", "c"):
            for accepted in ("gzip", "identity"):
                headers = {"accept-encoding": accepted}
                for _ in range(2):
                    assert client.get(path, headers=headers).json()["title"] == title
                    assert client.get("/books", headers=headers).json()[0]["title"] == title
                    assert httpx.get(url + path).status_code == 401
                    assert httpx.get(f"{url}/books").status_code == 401
            following = {"a": "b", "b": "c", "c": "d"}[title]
            assert client.patch(path, json={"title": following}).status_code == 200
        assert client.delete(path).status_code == 204
        for _ in range(2):
            assert client.get(path).status_code == 404
        absent = f"/books/{row['id'] + 1}"
        assert client.get(absent).status_code == 404
        client.post("/books", json={"title": "z"})
        assert client.get(absent).json()["title"] == "z", "that there is no row may not be cached"


@pytest.mark.parametrize("proxy", CACHES)
def test_condition_holds_behind_a_cache(tmp_path: Path, proxy: str) -> None:
    """A tag that came through a proxy names the row as it was, whatever the proxy made of it."""
    variables: Variables = {"DATABASE_URL": f"sqlite:///{tmp_path}/test.db", "API_TOKEN": TOKEN}
    with (
        Service(variables) as service,
        behind(proxy, service, tmp_path) as url,
        httpx.Client(base_url=url, headers=BEARER, timeout=30) as client,
    ):
        for text in ("short", "long " * 500):  # nginx compresses the one, the service the other
            row = client.post("/books", json={"title": "a", "text": text}).json()
            path = f"/books/{row['id']}"
            for number, accepted in enumerate(("gzip", "identity")):
                headers = {"accept-encoding": accepted}
                read = client.get(path, headers=headers)
                assert ("content-encoding" in read.headers) <= (accepted == "gzip")
                varying = read.headers.get_list("vary", split_commas=True)
                assert {"Accept-Encoding", "Prefer"} <= set(varying)
                known = headers | {"if-none-match": read.headers["etag"]}
                again = client.get(
                    path, headers=known
                )  # with its cache, nginx ignores this condition
                assert again.status_code == 304 or (
                    again.json() == read.json() and "cache" in proxy
                )
                seen = {"if-match": read.headers["etag"]}
                change = {"title": f"b{number}"}
                changed = client.patch(path, json=change, headers=seen)
                assert changed.status_code == 200, changed.text
                assert client.patch(path, json=change, headers=seen).status_code == 412
                assert client.get(path, headers=known).status_code == 200
                latest = {"if-match": changed.headers["etag"]}
                assert client.patch(path, json={"title": "c"}, headers=latest).status_code == 200
        # The total is in a header of the same URL.
        counted = client.get("/books", headers={"prefer": "count=exact"})
        assert counted.headers["x-total-count"] == "2"
        assert "x-total-count" not in client.get("/books").headers
        counted = client.get("/books", headers={"prefer": "count=exact"})
        assert counted.headers["x-total-count"] == "2"


@pytest.mark.parametrize("proxy", CACHES)
def test_health_is_never_cached(tmp_path: Path, proxy: str) -> None:
    variables: Variables = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/test.db",
        "API_TOKEN": TOKEN,
    }
    with Service(variables) as service, behind(proxy, service, tmp_path) as url:
        for path in ("/healthz", "/readyz"):
            for number in range(5):
                own_id = f"{path[1:]}-{number}"
                answer = httpx.get(url + path, headers={"x-request-id": own_id})
                assert answer.status_code == 200
                assert answer.headers["x-request-id"] == own_id, "the answer to another request"
                assert answer.headers["cache-control"] == "no-store"
