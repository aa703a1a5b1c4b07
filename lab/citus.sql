-- Distributes the tables over the workers of a Citus cluster. Run it once, after the first release:
--   psql "$DATABASE_URL" --set ON_ERROR_STOP=1 --single-transaction --file lab/citus.sql

-- A list asks every shard, and a batch writes to most of them, so few are cheap. More workers than
-- shards are of no use; alter_distributed_table() changes the number later.
SET LOCAL citus.shard_count = 4;

-- Every node has all users. Only so can an e-mail be unique: a unique constraint of a distributed
-- table must contain the column that it is distributed by. And only so can rows on any worker refer
-- to any user.
SELECT create_reference_table('users');

-- By id, because the API names a row by its id alone: GET /posts/1 asks one shard. Distributed by
-- author_id or owner_id, a user's rows would be together, but the primary key and every path would
-- need that column too.
SELECT create_distributed_table('posts', 'id');
SELECT create_distributed_table('todos', 'id');
SELECT create_distributed_table('items', 'id');

-- idempotency_keys and alembic_version stay on the coordinator, where every request begins.

-- A migration is one transaction. After it has changed a table that refers to users, it can change
-- users only if Citus changes one shard after the other.
DO $$ BEGIN
    EXECUTE format(
        'ALTER DATABASE %I SET citus.multi_shard_modify_mode = sequential', current_database()
    );
END $$;
