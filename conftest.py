"""Loads the shared fixtures. pytest accepts `pytest_plugins` only in the top folder."""

pytest_plugins = ["nutshell.tests.fixtures"]
