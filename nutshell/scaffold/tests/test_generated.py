"""Resources made up from a seed pass the gates, beside Nutshell's own and in a new service.

Each tree gets its resources one after the other, and then runs `make check` and the tests once.
"""

import random
import shutil
import sys
from pathlib import Path

import pytest

from nutshell.scaffold.add import add_resource
from nutshell.scaffold.english import pluralized
from nutshell.scaffold.tests.conftest import OF_NUTSHELL, commit, git, make, run
from nutshell.scaffold.tree import ScaffoldError, tables_of_models
from nutshell.tests.service import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# What is easily written wrong: names, references to the same table, irregular plurals, defaults.
GIZMOS: list[dict[str, str]] = [
    {
        "NAME": "gizmo_kind",
        "FIELDS": "mail:email:unique? code:text:8:unique title:text:200 note:text:500? type:text:5 "
        "group:text:20='a b' site:url? parent:ref:gizmo_kinds?",
    },
    {
        "NAME": "gizmo",
        "ID": "uuid",
        "FIELDS": "kind:ref:gizmo_kinds spare:ref:gizmo_kinds:cascade other:ref:gizmo_kinds? "
        "status:choice:draft:sent=draft state:choice:on:off? made_on:day sold_at:instant? count:whole=5 "
        "weight:decimal:10:3? serial:uuid:unique read:flag=true sure:flag?=true path:text:10 "
        "price:money=9.90 data:json extra:json? tags:json=[] seen_at:instant=now due:day=2030-01-31",
    },
    {
        "NAME": "gizmo_person",
        "PLURAL": "gizmo_people",
        "FIELDS": "gizmo:ref:gizmos:unique kind:ref:gizmo_kinds:restrict? born_on:day:unique",
    },
    {"NAME": "gizmo_link", "FIELDS": "kind:ref:gizmo_kinds:cascade gizmo:ref:gizmos:cascade"},
]

TYPES = (
    "text:2 text:12 text:200 text:5000 whole money decimal:4:2 decimal:18:17 flag day instant "
    "email url uuid json choice:new:done choice:a-b:c_d:3"
)
DEFAULTS = {
    "text": "x",
    "whole": "-3",
    "money": "0",
    "decimal": "1.25",
    "flag": "true",
    "day": "2030-01-31",
    "instant": "now",
    "email": "a@example.com",
    "url": "https://example.com",
    "json": "{}",
}
UNIQUE = {"text:2", "text:12", "text:200", "whole", "day", "instant", "email", "uuid"}
NOUNS = (
    "account address analysis batch bill box branch bus category city claim company country course "
    "delivery dish entry exam flight guest hotel hour invoice journey key lease match notice offer "
    "order_line parcel party price_list quiz recipe reply room salary ship story tax ticket unit visit "
    "wish xray"
)
WORDS = (
    "amount area body brand code colour data due_at ends_on extra grade height kind label level lines "
    "mail memo mode name note owner phase place price rank reason score sent_at shape size_class "
    "starts_on state status stock subject tags target title total type user value weight zone"
)


def invent(seed: str, number: int, tables: list[str]) -> list[tuple[str, str, str]]:
    """Names, FIELDS and ID of resources, which refer to the tables and to each other."""
    choose = random.Random(seed)
    found = []
    known = list(tables)
    for noun in choose.sample(NOUNS.split(), number):
        words = choose.sample(WORDS.split(), choose.randint(1, 7))
        fields = [invent_field(choose, word) for word in words]
        for word in choose.sample(
            ("first", "second", "third"), choose.randint(0, min(3, len(known)))
        ):
            on_delete = choose.choice(("", ":cascade", ":restrict", ":null", ":unique"))
            optional = "?" if on_delete == ":null" or choose.random() < 0.4 else ""
            fields.append(f"{word}:ref:{choose.choice(known)}{on_delete}{optional}")
        choose.shuffle(fields)
        found.append((noun, " ".join(fields), choose.choice(("", "uuid"))))
        known.append(pluralized(noun))
    return found


def invent_field(choose: random.Random, name: str) -> str:
    type_ = choose.choice(TYPES.split())
    kind, *arguments = type_.split(":")
    null = choose.choice(("", "", "?"))
    if type_ in UNIQUE and choose.random() < 0.3:
        return f"{name}:{type_}:unique{null}"
    default = arguments[-1] if kind == "choice" else DEFAULTS.get(kind)
    if default and choose.random() < 0.3:
        return f"{name}:{type_}{null}={default}"
    return f"{name}:{type_}{null}"


def add_invented(tree: Path, seed: str) -> None:
    tables = list(tables_of_models((tree / "models.py").read_text()))
    for name, fields, ids in invent(seed, 10, tables):
        print(f"make resource NAME={name} FIELDS='{fields}' ID={ids}")
        add_resource(tree, name, fields, ids=ids)
        commit(tree)


def check_gates(tree: Path, *tests: str) -> None:
    # As in a clone in which somebody works, mypy knows the libraries already.
    if (ROOT / ".mypy_cache").exists() and not (tree / ".mypy_cache").exists():
        shutil.copytree(ROOT / ".mypy_cache", tree / ".mypy_cache")
    done = make(tree, "check")
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    options = ("-q", "-n", "2", "-m", "not slow and not soak")
    done = run(tree, sys.executable, "-m", "pytest", *options, *tests)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert git(tree, "status", "--porcelain") == ""


def test_resources_beside_others_pass_the_gates(tree: Path) -> None:
    old = {path.name for path in (tree / "tests").glob("test_*.py")}
    for variables in GIZMOS:
        done = make(tree, "resource", **variables)
        assert done.returncode == 0, done.stderr
        assert f"Create {variables.get('PLURAL', variables['NAME'] + 's')}." in "".join(
            path.read_text() for path in (tree / "migrations/versions").glob("*.py")
        )
        commit(tree)
    with pytest.raises(ScaffoldError, match="there is a table gizmos already"):
        add_resource(tree, "gizmo", "a:flag")
    add_invented(tree, "beside others")
    new = sorted({path.name for path in (tree / "tests").glob("test_*.py")} - old)
    assert len(new) == len(GIZMOS) + 10
    files = ("test_contract.py", "test_migrations.py", *new)
    check_gates(tree, *(f"tests/{name}" for name in files))


@OF_NUTSHELL
def test_new_service_passes_the_gates_without_and_with_resources(tree: Path) -> None:
    done = make(tree, "new", NAME="my-reader")
    assert done.returncode == 0, done.stderr
    assert not (tree / "lab").exists()
    assert 'create_app("My Reader"' in (tree / "main.py").read_text()
    assert (tree / "README.md").read_text().startswith("# My Reader\n")
    commit(tree)
    check_gates(tree)
    done = make(tree, "new", NAME="my-reader")
    assert done.returncode != 0
    assert "this is no fresh clone" in done.stderr
    add_invented(tree, "on their own")
    check_gates(tree)
