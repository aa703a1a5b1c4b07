"""Nutshell, a REST microservice in a nutshell: users, posts, todos and items over HTTP.

Each request gets its own database session (see database.py). A route that writes commits once,
and the commit is the last thing it does with the database.
"""

import asyncio
import gc
import secrets
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.security import HTTPBearer
from fastapi_swagger import patch_fastapi  # type: ignore[import-untyped]
from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import immediateload, joinedload
from sqlmodel import col

import database
from conditional import CACHED, TAGGED, ConditionsDep, etag
from database import AsyncSession, SessionDep
from errors import HANDLERS, describe_problems, problems
from idempotency import IDEMPOTENT, IdempotentRoute
from middleware import MIDDLEWARE
from models import (
    Id,
    Item,
    ItemCreate,
    ItemFilter,
    ItemRead,
    ItemUpdate,
    Page,
    Post,
    PostCreate,
    PostFilter,
    PostRead,
    PostReadWithAuthor,
    PostUpdate,
    Todo,
    TodoCreate,
    TodoFilter,
    TodoRead,
    TodoUpdate,
    User,
    UserCreate,
    UserFilter,
    UserRead,
    UserUpdate,
)
from settings import settings

MIGRATIONS = Config(Path(__file__).with_name("alembic.ini"))
HEAD = ScriptDirectory.from_config(MIGRATIONS).get_current_head()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # A PaaS throws away the disk of its release step, so SQLite's file comes to be here. A server
    # is migrated in the release step alone: web processes should not race to change a schema.
    if database.writer.dialect.name == "sqlite":
        await asyncio.to_thread(command.upgrade, MIGRATIONS, "head")
    # To uvicorn a second SIGINT means: drop the requests in flight. SIGTERM never does.
    if callable(stop := signal.getsignal(signal.SIGTERM)):
        signal.signal(signal.SIGINT, lambda _, frame: stop(signal.SIGTERM, frame))
    # What is loaded by now stays, and what a request leaves behind goes without the collector's
    # help: it need not look so often. bench/results.md has the gain.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
    yield
    await database.reader.dispose()
    await database.writer.dispose()


class Nutshell(FastAPI):
    def openapi(self) -> dict[str, Any]:
        return describe_problems(super().openapi())


app = Nutshell(
    title="Nutshell",
    summary="A REST microservice in a nutshell.",
    lifespan=lifespan,
    exception_handlers=HANDLERS,
    # Operations are named as their functions: generated clients get `list_users()`.
    generate_unique_id_function=lambda route: route.name,
    middleware=MIDDLEWARE,
    docs_url=None,
    redoc_url=None,
    swagger_ui_oauth2_redirect_url=None,
)


def is_local(request: Request) -> bool:
    """Whether the call was made on this machine, to this machine, and not passed on by a proxy.

    The server's own address comes from the socket; nobody can forge it. A client's can be forged.
    """
    address, _ = request.scope.get("server") or ("", None)
    return (address == "::1" or address.startswith("127.")) and not any(
        name.startswith("x-forwarded-") or name in ("forwarded", "via", "x-real-ip")
        for name in request.headers
    )


class Access(HTTPBearer):
    """Callers send the API_TOKEN; without one set the service is for its own machine alone."""

    async def __call__(self, request: Request) -> None:  # type: ignore[override]
        if settings.api_token is None:
            if not is_local(request):
                raise HTTPException(403, "Only local calls are allowed until API_TOKEN is set.")
            return
        bearer = await super().__call__(request)
        given = bearer.credentials if bearer else ""
        token = settings.api_token.get_secret_value()
        if not secrets.compare_digest(given.encode(), token.encode()):
            headers = {"WWW-Authenticate": "Bearer"}
            raise HTTPException(401, "Send the header Authorization: Bearer <token>.", headers)


check_access = Access(scheme_name="HTTPBearer", auto_error=False)


# A POST that depends on IDEMPOTENT claims its key; IdempotentRoute stores the answer with it.
users = APIRouter(tags=["users"], route_class=IdempotentRoute)
posts = APIRouter(tags=["posts"], route_class=IdempotentRoute)
todos = APIRouter(tags=["todos"], route_class=IdempotentRoute)
items = APIRouter(tags=["items"], route_class=IdempotentRoute)
health = APIRouter(tags=["health"])


async def read_page(
    query: Any, page: Page, session: AsyncSession, request: Request, response: Response
) -> Sequence[Any]:
    """The rows of `query`, a selection from `page`. A further page is announced in `Link` (RFC 8288)."""
    found = (await session.exec(query, params=page.values())).all()
    rows: Sequence[Any] = found[: page.limit]
    if len(found) > page.limit:
        parameters = {**request.query_params, "after": rows[-1].id}
        parameters.pop("offset", None)
        url = request.url.replace(query=urlencode(parameters))
        response.headers["Link"] = f'<{url}>; rel="next"'
    return rows


@users.get("/users", response_model=list[UserRead])
async def list_users(
    page: Annotated[UserFilter, Query()], session: SessionDep, request: Request, response: Response
) -> Sequence[User]:
    """Users in id order; `email` finds the one with that address, whatever its case."""
    query = page.select(User, UserRead)
    if page.email is not None:
        query = query.where(col(User.email) == page.email)
    return await read_page(query, page, session, request, response)


@users.post(
    "/users",
    response_model=UserRead,
    status_code=201,
    dependencies=[IDEMPOTENT],
    responses=problems(400, 409),
)
async def create_user(
    data: UserCreate, session: SessionDep, request: Request, response: Response
) -> User:
    """409 when another user has the `email`, whatever its case."""
    user = User(**data.model_dump())  # validated already, as `data`
    session.add(user)
    await session.commit()
    response.headers["Location"] = f"{request.base_url}users/{user.id}"
    response.headers["ETag"] = etag(user)
    return user


@users.get("/users/{user_id}", response_model=UserRead, responses=CACHED | problems(404))
async def read_user(user_id: Id, session: SessionDep, conditions: ConditionsDep) -> User:
    user = await session.get(User, user_id)
    if user is None:
        raise HTTPException(404, "There is no user with this id.")
    conditions.tag(user)  # ends the request with 304 when the caller has this version already
    return user


@users.patch(
    "/users/{user_id}", response_model=UserRead, responses=TAGGED | problems(400, 404, 409, 412)
)
async def update_user(
    user_id: Id, data: UserUpdate, session: SessionDep, conditions: ConditionsDep
) -> User:
    """Changes the fields given and leaves the others alone; `bio` may be null. 409 as on create."""
    await conditions.check_stored(session, User, user_id)
    user = await session.update(User, user_id, data.model_dump(exclude_unset=True))
    if user is None:
        raise HTTPException(404, "There is no user with this id.")
    await session.commit()
    conditions.tag(user)
    return user


@users.delete("/users/{user_id}", status_code=204, responses=problems(404, 412))
async def delete_user(user_id: Id, session: SessionDep, conditions: ConditionsDep) -> None:
    """Deletes the user's posts and todos too; their items stay, without an owner."""
    # Locked until the commit: what is compared here cannot change elsewhere meanwhile.
    user = await session.get(User, user_id, with_for_update=True)
    if user is None:
        raise HTTPException(404, "There is no user with this id.")
    conditions.check(user)
    await session.delete(user)
    await session.commit()


@posts.get("/users/{user_id}/posts", response_model=list[PostRead], responses=problems(404))
async def list_user_posts(
    user_id: Id,
    page: Annotated[Page, Query()],
    session: SessionDep,
    request: Request,
    response: Response,
) -> Sequence[Post]:
    """The user's posts in id order."""
    query = page.select(Post, PostRead).where(col(Post.author_id) == user_id)
    rows = await read_page(query, page, session, request, response)
    if not rows and await session.get(User, user_id) is None:
        raise HTTPException(404, "There is no user with this id.")
    return rows


@posts.post(
    "/users/{user_id}/posts",
    response_model=PostRead,
    status_code=201,
    dependencies=[IDEMPOTENT],
    responses=problems(400, 404, 409),
)
async def create_post(
    user_id: Id, data: PostCreate, session: SessionDep, request: Request, response: Response
) -> Post:
    """409 when the user is deleted in the same moment."""
    user = await session.get(User, user_id)
    if user is None:
        raise HTTPException(404, "There is no user with this id.")
    post = Post(**data.model_dump(), author_id=user_id)
    post.author = user  # the ETag speaks of the author too
    session.add(post)
    await session.commit()
    response.headers["Location"] = f"{request.base_url}posts/{post.id}"
    response.headers["ETag"] = etag(post)
    return post


@posts.get("/posts", response_model=list[PostReadWithAuthor])
async def list_posts(
    page: Annotated[PostFilter, Query()], session: SessionDep, request: Request, response: Response
) -> Sequence[Post]:
    """Posts in id order, each with its author."""
    # One statement however many posts: the author is joined, never fetched post by post.
    query = page.select(Post).options(joinedload(Post.author, innerjoin=True))
    if page.author_id is not None:
        query = query.where(col(Post.author_id) == page.author_id)
    return await read_page(query, page, session, request, response)


@posts.get("/posts/{post_id}", response_model=PostReadWithAuthor, responses=CACHED | problems(404))
async def read_post(post_id: Id, session: SessionDep, conditions: ConditionsDep) -> Post:
    """The post with its author."""
    author = joinedload(Post.author, innerjoin=True)
    post = await session.get(Post, post_id, options=[author])
    if post is None:
        raise HTTPException(404, "There is no post with this id.")
    conditions.tag(post)
    return post


@posts.patch(
    "/posts/{post_id}",
    response_model=PostReadWithAuthor,
    responses=TAGGED | problems(400, 404, 412),
)
async def update_post(
    post_id: Id, data: PostUpdate, session: SessionDep, conditions: ConditionsDep
) -> Post:
    """Changes the fields given and leaves the others alone."""
    joined = joinedload(Post.author, innerjoin=True)
    await conditions.check_stored(session, Post, post_id, options=[joined])
    changes = data.model_dump(exclude_unset=True)
    author = immediateload(Post.author)  # an UPDATE joins nothing
    post = await session.update(Post, post_id, changes, options=[author])
    if post is None:
        raise HTTPException(404, "There is no post with this id.")
    await session.commit()
    conditions.tag(post)
    return post


@posts.delete("/posts/{post_id}", status_code=204, responses=problems(404, 412))
async def delete_post(post_id: Id, session: SessionDep, conditions: ConditionsDep) -> None:
    # With its author, of whom the ETag in If-Match speaks too.
    author = joinedload(Post.author, innerjoin=True)
    post = await session.get(Post, post_id, options=[author], with_for_update={"of": Post})
    if post is None:
        raise HTTPException(404, "There is no post with this id.")
    conditions.check(post)
    await session.delete(post)
    await session.commit()


@todos.get("/todos", response_model=list[TodoRead])
async def list_todos(
    page: Annotated[TodoFilter, Query()], session: SessionDep, request: Request, response: Response
) -> Sequence[Todo]:
    """Todos in id order. Those without `due_at` are due neither before nor after any instant."""
    query = page.select(Todo, TodoRead)
    if page.owner_id is not None:
        query = query.where(col(Todo.owner_id) == page.owner_id)
    if page.done is not None:
        query = query.where(col(Todo.done) == page.done)
    if page.due_before is not None:
        query = query.where(col(Todo.due_at) < page.due_before)
    if page.due_after is not None:
        query = query.where(col(Todo.due_at) > page.due_after)
    if page.q is not None:
        query = query.where(col(Todo.title).icontains(page.q, autoescape=True))
    return await read_page(query, page, session, request, response)


@todos.post(
    "/todos",
    response_model=TodoRead,
    status_code=201,
    dependencies=[IDEMPOTENT],
    responses=problems(400, 409),
)
async def create_todo(
    data: TodoCreate, session: SessionDep, request: Request, response: Response
) -> Todo:
    """409 when no user has the id given as `owner_id`."""
    todo = Todo(**data.model_dump())
    session.add(todo)
    await session.commit()
    response.headers["Location"] = f"{request.base_url}todos/{todo.id}"
    response.headers["ETag"] = etag(todo)
    return todo


@todos.get("/todos/{todo_id}", response_model=TodoRead, responses=CACHED | problems(404))
async def read_todo(todo_id: Id, session: SessionDep, conditions: ConditionsDep) -> Todo:
    todo = await session.get(Todo, todo_id)
    if todo is None:
        raise HTTPException(404, "There is no todo with this id.")
    conditions.tag(todo)
    return todo


@todos.patch(
    "/todos/{todo_id}", response_model=TodoRead, responses=TAGGED | problems(400, 404, 409, 412)
)
async def update_todo(
    todo_id: Id, data: TodoUpdate, session: SessionDep, conditions: ConditionsDep
) -> Todo:
    """Changes the fields given and leaves the others alone; `due_at` may be null. 409 as on
    create."""
    await conditions.check_stored(session, Todo, todo_id)
    todo = await session.update(Todo, todo_id, data.model_dump(exclude_unset=True))
    if todo is None:
        raise HTTPException(404, "There is no todo with this id.")
    await session.commit()
    conditions.tag(todo)
    return todo


@todos.delete("/todos/{todo_id}", status_code=204, responses=problems(404, 412))
async def delete_todo(todo_id: Id, session: SessionDep, conditions: ConditionsDep) -> None:
    todo = await session.get(Todo, todo_id, with_for_update=True)
    if todo is None:
        raise HTTPException(404, "There is no todo with this id.")
    conditions.check(todo)
    await session.delete(todo)
    await session.commit()


@items.get("/items", response_model=list[ItemRead])
async def list_items(
    page: Annotated[ItemFilter, Query()], session: SessionDep, request: Request, response: Response
) -> Sequence[Item]:
    """Items in id order; `name` finds the items of exactly that name."""
    query = page.select(Item, ItemRead)
    if page.owner_id is not None:
        query = query.where(col(Item.owner_id) == page.owner_id)
    if page.name is not None:
        query = query.where(col(Item.name) == page.name)
    return await read_page(query, page, session, request, response)


@items.post(
    "/items",
    response_model=ItemRead,
    status_code=201,
    dependencies=[IDEMPOTENT],
    responses=problems(400, 409),
)
async def create_item(
    data: ItemCreate, session: SessionDep, request: Request, response: Response
) -> Item:
    """409 when no user has the id given as `owner_id`."""
    item = Item(**data.model_dump())
    session.add(item)
    await session.commit()
    response.headers["Location"] = f"{request.base_url}items/{item.id}"
    response.headers["ETag"] = etag(item)
    return item


@items.post(
    "/items/batch",
    response_model=list[ItemRead],
    status_code=201,
    dependencies=[IDEMPOTENT],
    responses=problems(400, 409),
)
async def create_items(
    data: Annotated[list[ItemCreate], Field(min_length=1, max_length=100)], session: SessionDep
) -> Sequence[Item]:
    """Stores all of the items, answered in the order given, or none of them."""
    batch = [Item(**item.model_dump()) for item in data]
    session.add_all(batch)
    await session.commit()
    return batch


@items.get("/items/{item_id}", response_model=ItemRead, responses=CACHED | problems(404))
async def read_item(item_id: Id, session: SessionDep, conditions: ConditionsDep) -> Item:
    item = await session.get(Item, item_id)
    if item is None:
        raise HTTPException(404, "There is no item with this id.")
    conditions.tag(item)
    return item


@items.patch(
    "/items/{item_id}", response_model=ItemRead, responses=TAGGED | problems(400, 404, 409, 412)
)
async def update_item(
    item_id: Id, data: ItemUpdate, session: SessionDep, conditions: ConditionsDep
) -> Item:
    """Changes the fields given and leaves the others alone; `description` and `owner_id` may be
    null. 409 as on create."""
    await conditions.check_stored(session, Item, item_id)
    item = await session.update(Item, item_id, data.model_dump(exclude_unset=True))
    if item is None:
        raise HTTPException(404, "There is no item with this id.")
    await session.commit()
    conditions.tag(item)
    return item


@items.delete("/items/{item_id}", status_code=204, responses=problems(404, 412))
async def delete_item(item_id: Id, session: SessionDep, conditions: ConditionsDep) -> None:
    item = await session.get(Item, item_id, with_for_update=True)
    if item is None:
        raise HTTPException(404, "There is no item with this id.")
    conditions.check(item)
    await session.delete(item)
    await session.commit()


class Health(BaseModel):
    status: Literal["ok"] = "ok"


@health.get("/healthz")
async def read_health() -> Health:
    """The process is alive."""
    return Health()


@health.get("/readyz", responses=problems(503))
async def read_readiness(session: SessionDep) -> Health:
    """The database answers, and its schema is the one this service was written for."""
    try:
        revision = await session.scalar(text("SELECT version_num FROM alembic_version"))
    except SQLAlchemyError as error:
        raise HTTPException(503, "The database does not answer, or has no schema.") from error
    if revision != HEAD:
        raise HTTPException(503, f"The schema is at {revision}, the service wants {HEAD}.")
    return Health()


@app.get("/", include_in_schema=False)
async def redirect_to_docs() -> RedirectResponse:
    return RedirectResponse("/docs")


for resource in (users, posts, todos, items):
    app.include_router(
        resource,
        dependencies=[Depends(check_access)],
        responses=problems(401, 403, 413, 422, 500, 503),
    )
app.include_router(health)
# /docs with assets of its own: FastAPI's come from the internet.
patch_fastapi(app, redirect_from_root_to_docs=False)

if settings.trace:
    import trace

    trace.watch(app, is_local)
