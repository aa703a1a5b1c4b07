"""The project that the commands change: what it declares, and how to change it or leave it as it was."""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from mako.template import Template  # type: ignore[import-untyped]

TEMPLATES = Path(__file__).parent / "templates"


class ScaffoldError(Exception):
    """Why nothing was changed, in one line."""


@dataclass
class Table:
    """A table class of models.py."""

    cls: str
    has_uuids: bool = False  # whether its ids are UUIDs
    references: dict[str, bool] = field(default_factory=dict)  # table: whether the row requires it


def top_level_names(text: str) -> set[str]:
    """The names that a module imports, assigns or defines."""
    names: set[str] = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {ast.unparse(target) for target in targets}
    return names


def paths_of_routes(text: str) -> set[str]:
    """The paths in a module's decorators, such as `@app.get("/users")`."""
    return {
        str(argument.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for call in node.decorator_list
        if isinstance(call, ast.Call)
        for argument in call.args
        if isinstance(argument, ast.Constant)
    }


def tables_of_models(text: str) -> dict[str, Table]:
    """The table classes by table name. Their fields may come from a base class in the same file."""
    classes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}

    def body(name: str) -> Iterator[ast.stmt]:
        for base in classes[name].bases:
            if isinstance(base, ast.Name) and base.id in classes:
                yield from body(base.id)
        yield from classes[name].body

    tables = {}
    for name, node in classes.items():
        for statement in node.body:
            if isinstance(statement, ast.Assign) and (
                ast.unparse(statement.targets[0]) == "__tablename__"
            ):
                table = tables[ast.literal_eval(statement.value)] = Table(name)
                for one in body(name):
                    if isinstance(one, ast.AnnAssign) and isinstance(one.value, ast.Call):
                        if ast.unparse(one.target) == "id":
                            table.has_uuids = "uuid" in ast.unparse(one.annotation).lower()
                        add_reference(table, one, one.value)
    return tables


def add_reference(table: Table, column: ast.AnnAssign, options: ast.Call) -> None:
    for option in options.keywords:
        if option.arg == "foreign_key":
            other = str(ast.literal_eval(option.value)).partition(".")[0]
            required = "None" not in ast.unparse(column.annotation)
            table.references[other] = table.references.get(other, False) or required


def assigns(node: ast.stmt, name: str) -> TypeGuard[ast.AnnAssign]:
    return isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name


def makers_of_rows(text: str) -> dict[str, str]:
    """The functions of tests/rows.py by path, as ROWS has them."""
    for node in ast.parse(text).body:
        if assigns(node, "ROWS") and isinstance(node.value, ast.Dict):
            pairs = zip(node.value.keys, node.value.values, strict=True)
            return {ast.literal_eval(key): ast.unparse(value) for key, value in pairs if key}
    raise ScaffoldError("tests/rows.py has no dict ROWS")


def replace_value(text: str, name: str, replace: Callable[[str], str]) -> str:
    """Replaces the source of the value that a module gives to `name`."""
    for node in ast.parse(text).body:
        if assigns(node, name) and node.value:
            statement = ast.get_source_segment(text, node) or ""
            value = ast.get_source_segment(text, node.value) or ""
            new = statement.removesuffix(value) + replace(value)
            return text.replace(statement, new)
    raise ScaffoldError(f"there is no {name}")


def render(template: str, **names: Any) -> str:
    return str(Template(filename=str(TEMPLATES / template)).render(**names))


def run(folder: Path, command: Sequence[str], environment: Mapping[str, str], failure: str) -> str:
    """Runs a command. Raises ScaffoldError with the last line of what it says."""
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no reason given"]
        raise ScaffoldError(f"{failure}: {lines[-1]}")
    return done.stdout


class Tree:
    """A working tree of git. Inside `undone_on_failure`, changes are undone unless all succeed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.touched: dict[str, bool] = {}  # path: whether it existed
        self.backup = root  # until there is one

    def read(self, path: str) -> str:
        try:
            text = (self.root / path).read_text()
            if path.endswith(".py"):
                ast.parse(text)
        except FileNotFoundError:
            raise ScaffoldError(f"there is no {path}") from None
        except SyntaxError as error:
            raise ScaffoldError(f"{path}, line {error.lineno}: {error.msg}") from None
        return text

    def require_clean(self) -> None:
        try:
            status = self.run("git", "status", "--porcelain")
        except (OSError, ScaffoldError):
            raise ScaffoldError(
                "this is no git repository, so a change could not be undone"
            ) from None
        if status:
            raise ScaffoldError(
                "there are uncommitted changes (git status): commit or stash them first"
            )

    def run(self, *command: str, failure: str = "") -> str:
        """Runs a command in the tree."""
        return run(self.root, command, os.environ, failure or command[0])

    def python(self, *arguments: str, database: Path, failure: str) -> str:
        """Runs Python on a SQLite database of its own, where the developer's settings do not apply."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        environment = {
            **kept,
            "DATABASE_URL": f"sqlite:///{database}",
            "PYTHONPATH": str(self.root),
        }
        return run(database.parent, (sys.executable, *arguments), environment, failure)

    def keep(self, path: str) -> None:
        """Remembers the file as it is, to restore it if a later step fails."""
        if path in self.touched:
            return
        exists = (self.root / path).exists()
        if exists:
            copy = self.backup / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.root / path, copy)
        self.touched[path] = exists

    def write(self, path: str, text: str) -> None:
        self.keep(path)
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def remove(self, path: str) -> None:
        self.keep(path)
        file = self.root / path
        file.unlink()
        for folder in file.parents:
            if {entry.name for entry in folder.iterdir()} - {"__pycache__"}:
                break
            shutil.rmtree(folder)

    def format(self) -> None:
        """Sorts imports, removes unused ones and formats the files written."""
        files = [path for path in self.touched if path.endswith(".py")]
        files = [path for path in files if (self.root / path).exists()]
        ruff = (sys.executable, "-m", "ruff")
        fix = ("check", "--quiet", "--fix", "--select", "I,F401")
        self.run(*ruff, *fix, *files, failure="ruff check")
        self.run(*ruff, "format", "--quiet", *files, failure="ruff format")

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory(prefix="nutshell-scaffold-") as folder:
            self.backup = Path(folder)
            try:
                yield
            except BaseException:
                for path, existed in self.touched.items():
                    if existed:
                        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy2(self.backup / path, self.root / path)
                    else:
                        (self.root / path).unlink(missing_ok=True)
                raise
