"""Index todos.title by trigrams where the database can, so that a search does not read every row."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# In SQL, so that `alembic upgrade head --sql` can print it. A trusted extension: whoever may create
# objects in the database may create it. Somebody may have done so before, in another schema.
CREATE_INDEX = """
DO $$
DECLARE
    place name;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm') THEN
        RETURN;
    END IF;
    BEGIN
        CREATE EXTENSION IF NOT EXISTS pg_trgm;
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING USING MESSAGE = 'titles are searched without an index: ' || SQLERRM;
        RETURN;
    END;
    SELECT nspname INTO place FROM pg_extension
        JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'pg_trgm';
    EXECUTE 'CREATE INDEX ix_todos_title_trigrams ON todos USING gin (title '
        || quote_ident(place) || '.gin_trgm_ops)';
END
$$
"""


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(CREATE_INDEX)


def downgrade() -> None:
    # The extension stays: others may use it.
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP INDEX IF EXISTS ix_todos_title_trigrams")
