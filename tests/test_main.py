"""The routes of main.py stay short: a newcomer reads them first."""

import ast

import pytest

from nutshell.tests.service import ROOT

ROUTES = {
    node.name: node
    for node in ast.parse((ROOT / "main.py").read_text()).body
    if isinstance(node, ast.AsyncFunctionDef)
}


def lines(name: str) -> int:
    """The lines of a route, with its decorator and its docstring."""
    first = ROUTES[name].decorator_list[0].lineno
    return (ROUTES[name].end_lineno or first) - first + 1


@pytest.mark.parametrize("name", [name for name in ROUTES if name.startswith("create_")])
def test_create_route_has_nine_lines_at_most(name: str) -> None:
    assert lines(name) <= 9


@pytest.mark.parametrize("name", [name for name in ROUTES if name.startswith("list_")])
def test_list_route_has_seven_lines_at_most_beside_its_filters(name: str) -> None:
    filters = [node for node in ROUTES[name].body if isinstance(node, ast.If)]
    own = sum((node.end_lineno or 0) - node.lineno + 1 for node in filters)
    assert lines(name) - own <= 7
