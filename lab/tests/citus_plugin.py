"""A plugin for pytest: test_citus.py runs the other tests with it."""

from pathlib import Path

import pytest
from sqlalchemy import URL, make_url


def pytest_configure(config: pytest.Config) -> None:
    """Runs after the shared fixtures are loaded, and before the test modules import `migrate`."""
    from nutshell.tests import service
    from lab.tests import on_citus

    migrate = service.migrate

    def migrate_and_distribute(url: URL | str, tree: Path | None = None) -> None:
        migrate(url, tree)
        on_citus.distribute(make_url(url))

    service.migrate = migrate_and_distribute
    config.pluginmanager.register(on_citus)
