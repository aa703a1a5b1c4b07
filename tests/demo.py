"""`make demo`: adds a few rows to the service that `make run` runs, so that its lists show something."""

import json
import sys
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from nutshell.settings import settings

URL = f"http://127.0.0.1:{settings.port}"

# Each row's path and fields. `{ada}` is the id of the row with that key.
ROWS: list[tuple[str, str, dict[str, Any]]] = [
    ("ada", "/users", {"email": "ada@example.com", "name": "Ada Lovelace"}),
    ("grace", "/users", {"email": "grace@example.com", "name": "Grace Hopper"}),
    ("alan", "/users", {"email": "alan@example.com", "name": "Alan Turing"}),
    ("", "/users/{ada}/posts", {"title": "Notes on the engine", "body": "It weaves patterns."}),
    ("", "/users/{grace}/posts", {"title": "A moth", "body": "Found in relay 70, panel F."}),
    ("", "/todos", {"title": "Buy punched cards", "owner_id": "{ada}"}),
    ("", "/todos", {"title": "Write a compiler", "owner_id": "{grace}", "done": True}),
    ("", "/todos", {"title": "Oil the bicycle", "owner_id": "{alan}"}),
    ("", "/items", {"name": "Difference engine", "description": "Brass, 8,000 parts."}),
    ("", "/items", {"name": "Nanosecond", "description": "Wire", "owner_id": "{grace}"}),
]


def add(path: str, fields: dict[str, Any]) -> Any:
    """Creates the row and returns its id. Ends with one line when the service refuses it."""
    request = Request(URL + path, json.dumps(fields).encode())
    request.add_header("content-type", "application/json")
    if settings.api_token:
        request.add_header("authorization", f"Bearer {settings.api_token.get_secret_value()}")
    try:
        with urlopen(request, timeout=30) as response:
            return json.load(response)["id"]
    except HTTPError as error:
        problem = json.load(error)
        sys.exit(f"POST {path}: {error.code}: {problem['detail']} {problem.get('errors', '')}")
    except URLError as error:
        sys.exit(f"{URL}: {error.reason}. Start the service first: make run")


def fill(part: Any, ids: dict[str, Any]) -> Any:
    """Puts ids in the place of keys such as `{ada}`, at any depth."""
    if isinstance(part, dict):
        return {name: fill(value, ids) for name, value in part.items()}
    if isinstance(part, list):
        return [fill(value, ids) for value in part]
    return ids[part.strip("{}")] if isinstance(part, str) and part.startswith("{") else part


def main() -> None:
    ids: dict[str, Any] = {}
    for key, path, fields in ROWS:
        ids[key] = add(path.format(**ids), fill(fields, ids))
    print(f"Added {len(ROWS)} rows to {URL}")


if __name__ == "__main__":
    main()
