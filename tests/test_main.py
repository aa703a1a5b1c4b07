"""The routes of main.py stay short: a newcomer reads them first."""

import ast

import pytest

from nutshell.tests.service import ROOT

ROUTES = {
    node.name: node
    for node in ast.parse((ROOT / "main.py").read_text()).body
    if isinstance(node, ast.AsyncFunctionDef)
}


@pytest.mark.parametrize("name", [name for name in ROUTES if name.startswith("create_")])
def test_create_route_has_seven_statements_at_most(name: str) -> None:
    assert len(ROUTES[name].body) <= 7


@pytest.mark.parametrize("name", [name for name in ROUTES if name.startswith("list_")])
def test_list_route_has_three_statements_at_most_beside_its_filters(name: str) -> None:
    assert len([node for node in ROUTES[name].body if not isinstance(node, ast.If)]) <= 3
