"""`make resource`: writes a resource as MAKE_IT_YOURS.md shows it, from its name and its fields."""

import ast
import builtins
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sqlalchemy.dialects.postgresql.base import PGIdentifierPreparer
from sqlalchemy.dialects.sqlite.base import SQLiteIdentifierPreparer

from nutshell.scaffold.english import (
    camel,
    pluralized,
    snake,
)
from nutshell.scaffold.fields import Field, check_identifier, parse_fields
from nutshell.scaffold.resource import Resource
from nutshell.scaffold.tree import (
    ScaffoldError,
    Table,
    Tree,
    assigns,
    makers_of_rows,
    paths_of_routes,
    render,
    replace_value,
    tables_of_models,
    top_level_names,
)

# What a variable of the routes must not be called: the routes use these themselves.
ROUTE_NAMES = {"answer", "data", "filters", "if_match", "is_null", "query", "reply", "session"}
# What the two files import, now or with a later resource.
IMPORTED_BY_MAIN = top_level_names(render("imports_main.mako"))
IMPORTED_BY_MODELS = top_level_names(render("imports_models.mako"))
SCHEMAS = ("", "Base", "Create", "Read", "Update", "Filter")
OWN_PATHS = {"docs", "healthz", "readyz", "trace"}
OWN_TABLES = {"alembic_version", "idempotency_keys"}
RESERVED = PGIdentifierPreparer.reserved_words | SQLiteIdentifierPreparer.reserved_words


def check_names(tree: Tree, name: str, plural: str, tables: dict[str, Table]) -> None:
    check_identifier(name)
    check_identifier(plural)
    for one in (name, plural):
        if hasattr(builtins, one) or hasattr(builtins, camel(one)):
            raise ScaffoldError(f"{one} is a built-in name of Python")
    if plural in RESERVED:
        raise ScaffoldError(f"{plural} is a reserved word of SQL: give another PLURAL=")
    if plural in tables or plural in OWN_TABLES:
        raise ScaffoldError(f"there is a table {plural} already")
    paths = {path.split("/")[1] for path in paths_of_routes(tree.read("main.py")) if "/" in path}
    if plural in paths | OWN_PATHS:
        raise ScaffoldError(f"there is a path /{plural} already")
    main = top_level_names(tree.read("main.py"))
    models = top_level_names(tree.read("models.py"))
    if name in ROUTE_NAMES | main | IMPORTED_BY_MAIN:
        raise ScaffoldError(f"{name} is a name that main.py uses already")
    cls = camel(name)
    for suffix in SCHEMAS:
        if cls + suffix in main | IMPORTED_BY_MODELS | IMPORTED_BY_MAIN:
            raise ScaffoldError(f"{cls}{suffix} is a name that models.py or main.py imports")
        if cls + suffix in models:
            raise ScaffoldError(f"models.py has a {cls}{suffix} already: rename that, or this")
    functions = {
        f"list_{plural}",
        *(f"{verb}_{name}" for verb in ("create", "read", "update", "delete")),
    }
    if taken := functions & main:
        raise ScaffoldError(f"main.py has {min(taken)} already")
    if f"make_{name}" in top_level_names(tree.read("tests/rows.py")):
        raise ScaffoldError(f"tests/rows.py has make_{name} already")
    if (tree.root / f"tests/test_{plural}.py").exists():
        raise ScaffoldError(f"there is a tests/test_{plural}.py already")


def with_aliases(fields: list[Field], cls: str, models: str) -> tuple[list[Field], dict[str, str]]:
    """Finds or makes up the names of the types that models.py defines for these fields."""
    taken = top_level_names(models) | IMPORTED_BY_MODELS | {cls + suffix for suffix in SCHEMAS}
    defined = {
        ast.unparse(node.targets[0]): ast.unparse(node.value)
        for node in ast.parse(models).body
        if isinstance(node, ast.Assign)
    }
    new: dict[str, str] = {}
    named = []
    for field in fields:
        kind = field.kind
        if kind.alias is not None:
            source = ast.unparse(ast.parse(kind.alias))
            for alias in (kind.type, f"{cls}{kind.type}"):
                if defined.get(alias, "").replace("_", "") == source.replace("_", ""):
                    break
                if alias not in taken and not hasattr(builtins, alias):
                    new[alias] = kind.alias
                    break
            else:
                raise ScaffoldError(
                    f"{field.name}: {cls}{kind.type} is a name that models.py uses already"
                )
            taken.add(alias)
            defined[alias] = source
            shown = alias if kind.shown == kind.type else kind.shown
            kind = replace(kind, type=alias, query=alias, shown=shown)
        named.append(replace(field, kind=kind))
    return named, new


def ancestors(table: str, tables: dict[str, Table]) -> list[str]:
    """The tables of which a row of this one needs rows, itself included, once for each reference."""
    required = [name for name, needed in tables[table].references.items() if needed]
    return [table, *(name for parent in required for name in ancestors(parent, tables))]


def find_parents(fields: list[Field], rows: dict[str, str]) -> list[tuple[Field, str]]:
    parents = []
    for field in fields:
        if field.kind.table and field.required:
            if f"/{field.kind.table}" not in rows:
                raise ScaffoldError(
                    f"{field.name}: tests/rows.py does not say how to make one of {field.kind.table}"
                )
            parents.append((field, rows[f"/{field.kind.table}"]))
    return parents


def check_constraints(plural: str, fields: list[Field]) -> None:
    """PostgreSQL would cut their names to 63 bytes, and a 409 could not name the field."""
    for field in fields:
        names = [f"uq_{plural}_{field.name}"] if field.unique else []
        names += [f"fk_{plural}_{field.name}_{field.kind.table}"] if field.kind.table else []
        names += [f"ck_{plural}_{field.name}"] if field.kind.checked else []
        if too_long := [name for name in names if len(name) > 63]:
            raise ScaffoldError(
                f"{field.name}: its constraint {too_long[0]} has more than 63 letters"
            )


def describe(tree: Tree, name: str, plural: str, text: str, has_uuids: bool) -> Resource:
    """Parses what was asked for. Raises ScaffoldError if there is anything wrong with it."""
    models = tree.read("models.py")
    tables = tables_of_models(models)
    check_names(tree, name, plural, tables)
    parsed = parse_fields(text, tables, own={plural: Table(camel(name), has_uuids)})
    fields, aliases = with_aliases(parsed, camel(name), models)
    check_constraints(plural, fields)
    rows = makers_of_rows(tree.read("tests/rows.py"))
    parents = find_parents(fields, rows)
    needed = [one for field, _ in parents for one in ancestors(str(field.kind.table), tables)]
    apart = len(needed) > len(set(needed))
    singulars = {table: snake(found.cls) for table, found in tables.items()} | {plural: name}
    return Resource(name, plural, fields, aliases, parents, apart, singulars, has_uuids)


def is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def insert_before(text: str, found: Callable[[ast.stmt], bool], new: str) -> str:
    """Inserts lines before the first statement of a kind, or at the end."""
    lines = text.splitlines(keepends=True)
    for node in ast.parse(text).body:
        if found(node):
            lines.insert(node.lineno - 1, new)
            return "".join(lines)
    return f"{text.rstrip()}\n\n\n{new}"


def add_aliases(text: str, aliases: dict[str, str]) -> str:
    """Defines them below those that there are, or below the imports."""
    if not aliases:
        return text
    new = "".join(f"{name} = {source}\n" for name, source in aliases.items())
    lines = text.splitlines(keepends=True)
    body = ast.parse(text).body
    above = [node for node in body if is_import(node) or isinstance(node, ast.Assign)]
    last = above[-1]  # models.py has imports by now
    gap = "" if isinstance(last, ast.Assign) else "\n"
    lines.insert(last.end_lineno or 0, gap + new)
    return "".join(lines)


def add_entry(source: str, entry: str) -> str:
    """Adds it to the source of a dict. The last comma makes ruff write one entry a line."""
    inner = source.strip("{}").strip().removesuffix(",")
    return f"{{{inner}{',' if inner else ''}{entry},}}"


def add_resource(root: Path, name: str, text: str, plural: str = "", ids: str = "") -> str:
    """Writes the resource and its migration. Returns what to tell the user."""
    if ids not in ("", "uuid"):
        raise ScaffoldError(f"ID={ids} is not known: leave it out, or give ID=uuid")
    tree = Tree(root)
    tree.require_clean()
    resource = describe(tree, name, plural or pluralized(name), text, has_uuids=ids == "uuid")
    with tree.undone_on_failure():
        models = insert_before(tree.read("models.py"), is_import, render("imports_models.mako"))
        models = add_aliases(models, resource.aliases)
        tree.write("models.py", f"{models.rstrip()}\n\n\n{render('models.mako', r=resource)}")
        main = tree.read("main.py")
        main = insert_before(main, is_import, render("imports_main.mako"))
        schemas = ", ".join(resource.cls + suffix for suffix in SCHEMAS if suffix != "Base")
        main = insert_before(main, is_import, f"from models import {schemas}\n")
        tree.write("main.py", f"{main.rstrip()}\n\n\n{render('main.mako', r=resource)}")
        rows = replace_value(
            tree.read("tests/rows.py"),
            "ROWS",
            lambda old: add_entry(old, f'"/{resource.plural}": make_{resource.name}'),
        )
        rows = insert_before(rows, is_import, "from nutshell.tests.fixtures import create\n")
        maker = f"{render('rows.mako', r=resource)}\n\n"
        rows = insert_before(rows, lambda node: assigns(node, "ROWS"), maker)
        tree.write("tests/rows.py", rows)
        tree.write(f"tests/test_{resource.plural}.py", render("test.mako", r=resource))
        tree.format()
        migration = write_migration(tree, resource.plural)
        tree.format()
    return render("report.mako", r=resource, migration=migration)


# The service must still start with the new code, so its document is made too.
AUTOGENERATE = """
import sys
import main
from alembic import command
from nutshell.migrate import MIGRATIONS

message, revision = sys.argv[1:]
command.upgrade(MIGRATIONS, "head")
command.revision(MIGRATIONS, message, autogenerate=True, rev_id=revision or None)
main.app.openapi()
"""


def write_migration(tree: Tree, plural: str) -> str:
    """Compares the models with a new database that has all earlier migrations."""
    versions = tree.root / "migrations/versions"
    before = {path.name for path in versions.glob("*.py")}
    numbers = [int(name[:4]) for name in before if re.match(r"\d{4}_", name)]
    # Numbered as the others are, unless Alembic has named some.
    number = f"{max(numbers) + 1:04}" if len(numbers) == len(before) > 0 else ""
    with tempfile.TemporaryDirectory(prefix="nutshell-scaffold-") as folder:
        try:
            database = Path(folder) / "empty.db"
            arguments = ("-c", AUTOGENERATE, f"Create {plural}.", number)
            tree.python(*arguments, database=database, failure="alembic wrote no migration")
        finally:
            written = {path.name for path in versions.glob("*.py")} - before
            tree.touched |= {f"migrations/versions/{name}": False for name in written}
    if not written:
        raise ScaffoldError("alembic wrote no migration")
    return f"migrations/versions/{min(written)}"
