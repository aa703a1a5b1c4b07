"""The app that the tests of this folder call."""

import pytest
from fastapi import FastAPI
from sqlalchemy import URL, create_engine
from sqlmodel import SQLModel

from nutshell.tests import library
from nutshell.tests.fixtures import *
from nutshell.tests.fixtures import MakeSchema


@pytest.fixture
def app() -> FastAPI:
    return library.app


@pytest.fixture(scope="session")
def make_schema() -> MakeSchema:
    """The models make the schema."""

    def create_tables(url: URL) -> None:
        engine = create_engine(url)
        SQLModel.metadata.create_all(engine, tables=library.TABLES)
        engine.dispose()

    return create_tables
