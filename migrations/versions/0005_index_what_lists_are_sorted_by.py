"""Index what lists are sorted by."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_users_name_id", "users", ["name", "id"])
    op.drop_index("ix_todos_due_at", "todos")
    op.create_index("ix_todos_due_at_id", "todos", ["due_at", "id"])


def downgrade() -> None:
    op.drop_index("ix_todos_due_at_id", "todos")
    op.create_index("ix_todos_due_at", "todos", ["due_at"])
    op.drop_index("ix_users_name_id", "users")
