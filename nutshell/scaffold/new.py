"""`make new`: turns a clone of Nutshell into an empty service of another name."""

import ast
import re
from pathlib import Path

from nutshell.scaffold.tree import (
    ScaffoldError,
    Tree,
    makers_of_rows,
    paths_of_routes,
    render,
    replace_value,
    tables_of_models,
)

# The resources of Nutshell. If there are others, some of their code would be left without what it needs.
TABLES = {"users", "posts", "todos", "items"}
# What is about Nutshell or its resources: files, and folders with all that git tracks in them.
REMOVED = (
    "CHANGELOG.md",
    "LESSONS.md",
    "docs/burst.html",
    "docs/elsewhere.md",
    "docs/lost-update.html",
    "docs/performance.md",
    "docs/tiny.py",
    "docs/trace-dark.png",
    "docs/trace-light.png",
    "lab",
    "tests/test_items.py",
    "tests/test_large.py",
    "tests/test_main.py",
    "tests/test_pages.py",
    "tests/test_posts.py",
    "tests/test_search.py",
    "tests/test_todos.py",
    "tests/test_users.py",
)
VERSIONS = "migrations/versions"
KEYS = "0003_create_idempotency_keys.py"  # the only one that a new service keeps
MIGRATIONS = {
    KEYS,
    "0001_create_tables.py",
    "0002_add_users_bio.py",
    "0004_index_todos_title_by_trigrams.py",
    "0005_index_what_lists_are_sorted_by.py",
}
# Pattern and replacement; NAME and TITLE become those of the service. Each must match.
EDITS: dict[str, list[tuple[str, str]]] = {
    "render.yaml": [("name: nutshell", "name: NAME")],
    "app.json": [
        ('"name": "Nutshell"', '"name": "TITLE"'),
        ("A REST microservice in a nutshell.", "The TITLE service."),
    ],
    ".railway/railway.ts": [('(service|project)\\("nutshell"', r'\1("NAME"')],
    ".pytest.ini": [("testpaths = tests nutshell", "testpaths = tests")],
    ".ci/run": [("timeout .* make lab\n", "")],
    ".github/workflows/ci.yml": [(" *- run: make lab\n", "")],
    # What it says after the beginning is for whoever keeps the service.
    "MAKE_IT_YOURS.md": [
        ("From a clone (.|\n)*?(?=## Add resources)", ""),
        ("<!---(.|\n)*?-->\n\n", ""),
    ],
    ".github/CONTRIBUTING.md": [("- Describe changes .*CHANGELOG.*\n", "")],
    "docs/operating.md": [("--(name|service) nutshell", r"--\1 NAME")],
    "docs/development.md": [
        (": users, posts, todos, items \\|", " |"),
        (r"`LESSONS.md`, (`MAKE_IT_YOURS.md`, `docs/`) \| pages, .* \|", r"\1 | pages |"),
        (r"\| `lab/` .*\n", ""),
    ],
    # Links to the laboratory keep their words.
    "docs/dependencies.md": [
        (", and those of `lab/bench/` and `lab/clients/`", ""),
        (r": see \[Clients\]\(\.\./lab/[^)]*\)", ""),
        (r"\| `(cosmic-ray|matplotlib).*\n", ""),
    ],
    "docs/scaling.md": [
        (r" See \[its setup and recovery times\]\(\.\./lab/[^)]*\)\.", ""),
        (r"See \[its cost\]\(\.\./lab/[^)]*\), and first try", "First try"),
        (r" `make scale` measures .*\n\[The laboratory\]\(\.\./lab/[^)]*\) .*\n", "\n"),
    ],
    "tests/conftest.py": [
        (", and a user in it", ""),
        ("from typing import Any\n\nimport httpx\n", ""),
        ("MakeSchema, create", "MakeSchema"),
        (r"\n\n@pytest\.fixture\nasync def user(.|\n)*", ""),
    ],
}


def make_new(root: Path, name: str) -> str:
    """Makes the service. Returns what to tell the user."""
    tree = Tree(root)
    check(tree, name)
    title = name.replace("-", " ").title()
    with tree.undone_on_failure():
        for path in tracked(tree, *REMOVED, VERSIONS):
            if path != f"{VERSIONS}/{KEYS}":
                tree.remove(path)
        tree.write("main.py", render("new_main.mako", title=title))
        tree.write("models.py", f'"""{ast.get_docstring(ast.parse(tree.read("models.py")))}\n"""\n')
        tree.write("tests/rows.py", without_functions(tree.read("tests/rows.py")))
        tree.write(
            "tests/demo.py", replace_value(tree.read("tests/demo.py"), "ROWS", lambda _: "[]")
        )
        tree.write("README.md", render("new_README.mako", name=name, title=title))
        for path, edits in EDITS.items():
            tree.write(path, edited(tree.read(path), path, edits, name, title))
        migration = tree.read(f"{VERSIONS}/{KEYS}")
        migration = re.sub("(?m)^revision = .*", 'revision = "0001"', migration)
        migration = re.sub("(?m)^down_revision = .*", "down_revision = None", migration)
        tree.remove(f"{VERSIONS}/{KEYS}")
        tree.write(f"{VERSIONS}/0001{KEYS[4:]}", migration)
        tree.format()
    return render("new_report.mako", name=name, title=title)


def check(tree: Tree, name: str) -> None:
    """Refuses what is no name for a service, and a tree that is not as it was cloned."""
    if not re.fullmatch("[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or len(name) > 30:
        raise ScaffoldError(
            f"{name!r} is no name for a service: use a-z, 0-9 and -, 30 letters at most"
        )
    tree.require_clean()
    require_fresh(tree)
    if others := {Path(path).name for path in tracked(tree, VERSIONS)} - MIGRATIONS:
        raise ScaffoldError(
            f"there are migrations of your own ({', '.join(sorted(others))}): use it in a fresh clone"
        )


def require_fresh(tree: Tree) -> None:
    """Refuses a tree without the resources of Nutshell, or with others beside them."""
    tables = tables_of_models(tree.read("models.py")).keys()
    if not tables & TABLES or not (tree.root / VERSIONS / KEYS).exists():
        raise ScaffoldError("this is no fresh clone: the resources of Nutshell are gone already")
    rows = {path.strip("/") for path in makers_of_rows(tree.read("tests/rows.py"))}
    routes = {path.split("/")[1] for path in paths_of_routes(tree.read("main.py"))}
    if others := (tables | rows | routes) - TABLES:
        raise ScaffoldError(
            f"there are resources of your own ({', '.join(sorted(others))}): use it in a fresh clone"
        )


def tracked(tree: Tree, *paths: str) -> list[str]:
    """The files that git tracks; it ignores others, such as the developer's database."""
    return [path for path in tree.run("git", "ls-files", "-z", *paths).split("\0") if path]


def without_functions(rows: str) -> str:
    """tests/rows.py without its functions."""
    lines = rows.splitlines(keepends=True)
    functions = [node for node in ast.parse(rows).body if isinstance(node, ast.AsyncFunctionDef)]
    for node in reversed(functions):
        del lines[node.lineno - 1 : node.end_lineno]
    return replace_value("".join(lines), "ROWS", lambda _: "{}")


def edited(text: str, path: str, edits: list[tuple[str, str]], name: str, title: str) -> str:
    for pattern, new in edits:
        new = new.replace("NAME", name).replace("TITLE", title)
        text, count = re.subn(pattern, new, text)
        if not count:
            raise ScaffoldError(f"{path} is not as Nutshell has it: it has no {pattern!r}")
    return text
