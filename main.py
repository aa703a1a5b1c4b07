"""Nutshell, a REST microservice in a nutshell: users, posts, todos and items over HTTP.

Each request gets its own database session: see nutshell/database.py. A route that changes data calls
commit() exactly once, as its last database operation. get_one() answers 404 for an unknown id, and
if_match.check() answers 412 for an outdated ETag.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query, Response
from pydantic import Field
from sqlalchemy.orm import joinedload
from sqlmodel import col

from models import (
    Item,
    ItemCreate,
    ItemFilter,
    ItemRead,
    ItemUpdate,
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
from nutshell.app import create_app
from nutshell.conditional import IfMatchDep
from nutshell.database import SessionDep
from nutshell.fields import Id
from nutshell.paging import Filter
from nutshell.routes import ReplyDep

app = create_app(
    "Nutshell",
    summary="A REST microservice in a nutshell.",
    version="1.0.0",
    license_info={"name": "MIT", "identifier": "MIT"},
)

if __name__ == "__main__":
    raise SystemExit("Start the service with `make run`, or with `python -m nutshell`.")


# Users


@app.get("/users", response_model=list[UserRead])
async def list_users(
    filters: Annotated[UserFilter, Query()], session: SessionDep, reply: ReplyDep
) -> Sequence[Any]:
    """Lists users. `email` finds the user with that address, ignoring case."""
    query = filters.select(User, UserRead)
    if filters.email is not None:
        query = query.where(col(User.email) == filters.email)
    return await reply.page(session, query, filters)


@app.post("/users", response_model=UserRead, status_code=201)
async def create_user(data: UserCreate, session: SessionDep, answer: Response) -> User:
    """Creates a user. 409 if another user has this `email`, ignoring case."""
    user = User.model_validate(data)
    session.add(user)
    await session.commit()
    answer.headers["Location"] = f"/users/{user.id}"
    return user


@app.get("/users/{user_id}", response_model=UserRead)
async def read_user(user_id: Id, session: SessionDep) -> User:
    """Reads one user."""
    return await session.get_one(User, user_id)


@app.patch("/users/{user_id}", response_model=UserRead)
async def update_user(
    user_id: Id, data: UserUpdate, session: SessionDep, if_match: IfMatchDep
) -> User:
    """Changes only the fields sent. `bio` may be null. 409 if another user has this `email`."""
    user = await session.get_one(User, user_id, with_for_update=True)
    if_match.check(UserRead, user)
    user.sqlmodel_update(data.changes(user))
    await session.commit()
    return user


@app.delete("/users/{user_id}", status_code=204)
async def delete_user(user_id: Id, session: SessionDep, if_match: IfMatchDep) -> None:
    """Deletes a user with their posts and todos. Their items are kept, without an owner."""
    user = await session.get_one(User, user_id, with_for_update=True)
    if_match.check(UserRead, user)
    await session.delete(user)
    await session.commit()


# Posts. Except in a user's own list, a post is shown with its author. A join loads both in one statement,
# which avoids an extra query per post.

WITH_AUTHOR = joinedload(Post.author, innerjoin=True)
LOCK_POST = {"of": Post}  # lock the post's row, but not its author's


@app.get("/users/{user_id}/posts", response_model=list[PostRead])
async def list_user_posts(
    user_id: Id, filters: Annotated[Filter, Query()], session: SessionDep, reply: ReplyDep
) -> Sequence[Any]:
    """Lists the user's posts in id order."""
    query = filters.select(Post, PostRead).where(col(Post.author_id) == user_id)
    return await reply.page(session, query, filters, parent=(User, user_id))


@app.post("/users/{user_id}/posts", response_model=PostReadWithAuthor, status_code=201)
async def create_post(user_id: Id, data: PostCreate, session: SessionDep, answer: Response) -> Post:
    """Creates a post by this user. 409 if the user is deleted at the same moment."""
    author = await session.get_one(User, user_id)
    post = Post.model_validate(data, update={"author_id": user_id, "author": author})
    session.add(post)
    await session.commit()
    answer.headers["Location"] = f"/posts/{post.id}"
    return post


@app.get("/posts", response_model=list[PostReadWithAuthor])
async def list_posts(
    filters: Annotated[PostFilter, Query()], session: SessionDep, reply: ReplyDep
) -> Sequence[Post]:
    """Lists posts, each with its author."""
    query = filters.select(Post, PostReadWithAuthor).options(WITH_AUTHOR)
    if filters.author_id is not None:
        query = query.where(col(Post.author_id) == filters.author_id)
    return await reply.page(session, query, filters)


@app.get("/posts/{post_id}", response_model=PostReadWithAuthor)
async def read_post(post_id: Id, session: SessionDep) -> Post:
    """Reads one post, with its author."""
    return await session.get_one(Post, post_id, options=[WITH_AUTHOR])


@app.patch("/posts/{post_id}", response_model=PostReadWithAuthor)
async def update_post(
    post_id: Id, data: PostUpdate, session: SessionDep, if_match: IfMatchDep
) -> Post:
    """Changes only the fields sent."""
    post = await session.get_one(Post, post_id, options=[WITH_AUTHOR], with_for_update=LOCK_POST)
    if_match.check(PostReadWithAuthor, post)
    post.sqlmodel_update(data.changes(post))
    await session.commit()
    return post


@app.delete("/posts/{post_id}", status_code=204)
async def delete_post(post_id: Id, session: SessionDep, if_match: IfMatchDep) -> None:
    """Deletes a post."""
    post = await session.get_one(Post, post_id, options=[WITH_AUTHOR], with_for_update=LOCK_POST)
    if_match.check(PostReadWithAuthor, post)
    await session.delete(post)
    await session.commit()


# Todos


@app.get("/todos", response_model=list[TodoRead])
async def list_todos(
    filters: Annotated[TodoFilter, Query()], session: SessionDep, reply: ReplyDep
) -> Sequence[Any]:
    """Lists todos. With `due_before` or `due_after`, todos without `due_at` are omitted."""
    query = filters.select(Todo, TodoRead)
    if filters.owner_id is not None:
        query = query.where(col(Todo.owner_id) == filters.owner_id)
    if filters.done is not None:
        query = query.where(col(Todo.done) == filters.done)
    if filters.due_before is not None:
        query = query.where(col(Todo.due_at) < filters.due_before)
    if filters.due_after is not None:
        query = query.where(col(Todo.due_at) > filters.due_after)
    if filters.q is not None:
        query = query.where(col(Todo.title).icontains(filters.q, autoescape=True))
    return await reply.page(session, query, filters)


@app.post("/todos", response_model=TodoRead, status_code=201)
async def create_todo(data: TodoCreate, session: SessionDep, answer: Response) -> Todo:
    """Creates a todo. 409 if there is no user `owner_id`."""
    todo = Todo.model_validate(data)
    session.add(todo)
    await session.commit()
    answer.headers["Location"] = f"/todos/{todo.id}"
    return todo


@app.get("/todos/{todo_id}", response_model=TodoRead)
async def read_todo(todo_id: Id, session: SessionDep) -> Todo:
    """Reads one todo."""
    return await session.get_one(Todo, todo_id)


@app.patch("/todos/{todo_id}", response_model=TodoRead)
async def update_todo(
    todo_id: Id, data: TodoUpdate, session: SessionDep, if_match: IfMatchDep
) -> Todo:
    """Changes only the fields sent. `due_at` may be null. 409 if there is no user `owner_id`."""
    todo = await session.get_one(Todo, todo_id, with_for_update=True)
    if_match.check(TodoRead, todo)
    todo.sqlmodel_update(data.changes(todo))
    await session.commit()
    return todo


@app.delete("/todos/{todo_id}", status_code=204)
async def delete_todo(todo_id: Id, session: SessionDep, if_match: IfMatchDep) -> None:
    """Deletes a todo."""
    todo = await session.get_one(Todo, todo_id, with_for_update=True)
    if_match.check(TodoRead, todo)
    await session.delete(todo)
    await session.commit()


# Items


@app.get("/items", response_model=list[ItemRead])
async def list_items(
    filters: Annotated[ItemFilter, Query()], session: SessionDep, reply: ReplyDep
) -> Sequence[Any]:
    """Lists items. `name` must match exactly. `owner_id_is_null=true` finds items without an owner."""
    query = filters.select(Item, ItemRead)
    if filters.owner_id is not None:
        query = query.where(col(Item.owner_id) == filters.owner_id)
    if filters.owner_id_is_null is not None:
        is_null = col(Item.owner_id).is_(None)
        query = query.where(is_null if filters.owner_id_is_null else ~is_null)
    if filters.name is not None:
        query = query.where(col(Item.name) == filters.name)
    return await reply.page(session, query, filters)


@app.post("/items", response_model=ItemRead, status_code=201)
async def create_item(data: ItemCreate, session: SessionDep, answer: Response) -> Item:
    """Creates an item. 409 if there is no user `owner_id`."""
    item = Item.model_validate(data)
    session.add(item)
    await session.commit()
    answer.headers["Location"] = f"/items/{item.id}"
    return item


@app.post("/items/batch", response_model=list[ItemRead], status_code=201)
async def create_items(
    data: Annotated[list[ItemCreate], Field(min_length=1, max_length=100)], session: SessionDep
) -> Sequence[Item]:
    """Creates all the items, and returns them in the order given, or creates none."""
    items = [Item.model_validate(item) for item in data]
    session.add_all(items)
    await session.commit()
    return items


@app.get("/items/{item_id}", response_model=ItemRead)
async def read_item(item_id: Id, session: SessionDep) -> Item:
    """Reads one item."""
    return await session.get_one(Item, item_id)


@app.patch("/items/{item_id}", response_model=ItemRead)
async def update_item(
    item_id: Id, data: ItemUpdate, session: SessionDep, if_match: IfMatchDep
) -> Item:
    """Changes only the fields sent. `description` and `owner_id` may be null. 409 as on create."""
    item = await session.get_one(Item, item_id, with_for_update=True)
    if_match.check(ItemRead, item)
    item.sqlmodel_update(data.changes(item))
    await session.commit()
    return item


@app.delete("/items/{item_id}", status_code=204)
async def delete_item(item_id: Id, session: SessionDep, if_match: IfMatchDep) -> None:
    """Deletes an item."""
    item = await session.get_one(Item, item_id, with_for_update=True)
    if_match.check(ItemRead, item)
    await session.delete(item)
    await session.commit()
