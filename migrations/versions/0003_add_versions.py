"""Add a version to every row, for conditional requests."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = ("users", "posts", "todos", "items")


def upgrade() -> None:
    for table in TABLES:
        # The default is for the rows that are there already.
        column = sa.Column("version", sa.BigInteger(), nullable=False, server_default="1")
        op.add_column(table, column)


def downgrade() -> None:
    for table in TABLES:
        op.drop_column(table, "version")
