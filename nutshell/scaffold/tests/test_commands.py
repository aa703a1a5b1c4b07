"""`make resource` and `make new`, in copies of this project: they hold whatever resources it has."""

import re
import sys
from pathlib import Path

import pytest

from nutshell.scaffold.add import add_resource
from nutshell.scaffold.new import make_new
from nutshell.scaffold.tests.conftest import OF_NUTSHELL, commit, git, make, run
from nutshell.scaffold.tree import ScaffoldError, tables_of_models
from nutshell.tests.service import ROOT

LINK = re.compile(r"\]\((?!http)([^)#]+)")

# Refusals


@pytest.mark.parametrize(
    ("name", "plural", "fields", "reason"),
    [
        ("Gizmo", "", "a:flag", "'Gizmo' is no name"),
        ("giz-mo", "", "a:flag", "'giz-mo' is no name"),
        ("gizmo", "../gizmos", "a:flag", "is no name"),
        ("class", "", "a:flag", "class is a keyword"),
        ("filter", "", "a:flag", "filter is a built-in name"),
        ("warning", "", "a:flag", "warning is a built-in name"),
        ("session", "", "a:flag", "session is a name that main.py uses already"),
        ("app", "", "a:flag", "app is a name that main.py uses already"),
        ("text", "", "a:flag", "Text is a name that models.py or main.py imports"),
        ("response", "", "a:flag", "Response is a name that models.py or main.py imports"),
        ("query", "", "a:flag", "query is a name that main.py uses already"),
        ("gizmo", "select", "a:flag", "select is a reserved word of SQL"),
        ("idempotency_key", "", "a:flag", "there is a table idempotency_keys already"),
        ("doc", "", "a:flag", "there is a path /docs already"),
        ("migration", "", "a:flag", "there is a tests/test_migrations.py already"),
        ("gizmo", "", "", "FIELDS is missing"),
        ("gizmo", "", "a:ref:nowheres", "there is no table nowheres"),
        ("g" * 29, "", f"{'a' * 27}:ref:{'g' * 29}s?", "has more than 63 letters"),
        ("g" * 29, "", f"{'a' * 30}:whole:unique", "has more than 63 letters"),
    ],
)
def test_bad_resource_is_refused_and_nothing_changed(
    unchanged: Path, name: str, plural: str, fields: str, reason: str
) -> None:
    with pytest.raises(ScaffoldError) as raised:
        add_resource(unchanged, name, fields, plural)
    assert reason in str(raised.value)
    assert git(unchanged, "status", "--porcelain") == ""


def test_taken_table_is_refused(unchanged: Path) -> None:
    tables = tables_of_models((unchanged / "models.py").read_text())
    if not tables:
        pytest.skip("this service has no resource")
    for table in tables:
        with pytest.raises(ScaffoldError, match=f"there is a table {table} already"):
            add_resource(unchanged, "gizmo", "a:flag", table)


@pytest.mark.parametrize("name", ["", "Reader", "my_reader", "a" * 31, "-a"])
def test_bad_name_of_a_service_is_refused(unchanged: Path, name: str) -> None:
    with pytest.raises(ScaffoldError, match="is no name for a service"):
        make_new(unchanged, name)
    assert git(unchanged, "status", "--porcelain") == ""


def test_unclean_tree_is_refused(tree: Path) -> None:
    (tree / "notes.txt").write_text("not committed\n")
    with pytest.raises(ScaffoldError, match="uncommitted changes"):
        add_resource(tree, "gizmo", "a:flag")
    with pytest.raises(ScaffoldError, match="uncommitted changes"):
        make_new(tree, "reader")
    assert git(tree, "status", "--porcelain") == "?? notes.txt\n"


def test_failure_half_way_is_undone(tree: Path) -> None:
    (tree / "alembic.ini").write_text("[alembic]\n")
    commit(tree)
    with pytest.raises(ScaffoldError, match="alembic"):
        add_resource(tree, "gizmo", "a:flag")
    assert git(tree, "status", "--porcelain") == ""


@pytest.mark.slow
def test_make_says_in_one_line_what_is_wrong(unchanged: Path) -> None:
    for target, variables, reason in [
        ("resource", {}, "resource: NAME is missing: make resource NAME=…. Nothing was changed."),
        ("new", {"NAME": "A"}, "new: 'A' is no name for a service"),
        ("resource", {"NAME": "gizmo", "FIELDS": "a:b"}, "resource: a:b: 'b' is no type"),
        ("resource", {"NAME": "gizmo", "FIELDS": "a:flag", "ID": "int"}, "resource: ID=int is not"),
    ]:
        done = make(unchanged, target, **variables)
        assert done.returncode != 0
        first, *rest = done.stderr.splitlines()
        assert first.startswith(reason)
        assert all(line.startswith("make") for line in rest)


def test_serving_imports_nothing_of_it() -> None:
    script = "import main, nutshell.__main__, sys; print(*sys.modules)"
    done = run(ROOT, sys.executable, "-c", script)
    assert "nutshell.app" in done.stdout.split()
    assert "nutshell.scaffold" not in done.stdout


# What they write


@OF_NUTSHELL
def test_new_service_has_pages_without_dead_links(tree: Path) -> None:
    make_new(tree, "reader")
    pages = [*tree.glob("*.md"), *tree.glob("docs/*.md"), *tree.glob(".github/*.md")]
    links = [(page, link) for page in pages for link in LINK.findall(page.read_text())]
    assert links
    dead = [(page.name, link) for page, link in links if not (page.parent / link).exists()]
    assert dead == []


@OF_NUTSHELL
def test_new_service_is_not_made_of_pages_that_it_does_not_know(tree: Path) -> None:
    (tree / "docs/scaling.md").write_text("Other words\n")
    commit(tree)
    with pytest.raises(ScaffoldError, match=r"docs/scaling\.md is not as Nutshell has it"):
        make_new(tree, "reader")
    assert git(tree, "status", "--porcelain") == ""


@OF_NUTSHELL
def test_new_service_is_refused_beside_own_resources(tree: Path) -> None:
    main = tree / "main.py"
    main.write_text(f'{main.read_text()}\n\n@app.get("/gizmos")\nasync def f() -> None: ...\n')
    commit(tree)
    with pytest.raises(ScaffoldError, match=r"resources of your own \(gizmos\)"):
        make_new(tree, "reader")
    assert git(tree, "status", "--porcelain") == ""
