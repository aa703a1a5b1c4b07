"""Add users.bio."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("users", sa.Column("bio", sa.String(1000), nullable=True))


def downgrade() -> None:
    op.drop_column("users", "bio")
