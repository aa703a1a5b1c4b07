"""Index todos.title by trigrams where the database can, so that a search does not read every row."""

import logging

import sqlalchemy as sa
from alembic import op
from sqlalchemy.exc import DBAPIError

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

logger = logging.getLogger("alembic.runtime.migration")

INDEX = "ix_todos_title_trigrams"


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    available = "SELECT 1 FROM pg_available_extensions WHERE name = 'pg_trgm'"
    if connection.scalar(sa.text(available)) is None:
        return
    try:
        # A trusted extension: whoever may create objects in the database may create it.
        with connection.begin_nested():
            connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
    except DBAPIError as error:
        logger.warning("titles are searched without an index: %s", error.orig)
        return
    # Somebody may have created it before, in another schema.
    schema = connection.scalar(
        sa.text("SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'pg_trgm'")
    )
    op.execute(f"CREATE INDEX {INDEX} ON todos USING gin (title {schema}.gin_trgm_ops)")


def downgrade() -> None:
    # The extension stays: others may use it.
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"DROP INDEX IF EXISTS {INDEX}")
