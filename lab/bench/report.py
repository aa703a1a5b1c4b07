"""lab/bench/results.md: each measurement rewrites its own section."""

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("results.md")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def versions() -> str:
    packages = ("fastapi", "sqlmodel", "sqlalchemy", "psycopg")
    named = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {named}"


def write(title: str, text: str) -> None:
    """Replaces the section with this title, or adds it."""
    print(text)
    section = f"## {title}\n\n{text.strip()}\n\n"
    old = RESULTS.read_text() if RESULTS.exists() else "# Measurements\n\n"
    pattern = rf"## {re.escape(title)}\n.*?(?=^## |\Z)"
    new, found = re.subn(pattern, lambda _: section, old, flags=re.DOTALL | re.MULTILINE)
    RESULTS.write_text((new if found else old + section).rstrip() + "\n")
