"""Litestar with advanced-alchemy: its plugin, its service and repository, asyncpg."""

import os
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Annotated

from advanced_alchemy.base import BigIntBase
from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    EngineConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyPlugin,
    repository,
    service,
)
from advanced_alchemy.filters import LimitOffset
from litestar import Litestar, get, patch, post
from litestar.di import Provide
from litestar.params import Parameter
from pydantic import BaseModel, EmailStr, Field
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column


class UserModel(BigIntBase):
    __tablename__ = "users"

    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    bio: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))


class User(BaseModel):
    id: int
    email: str
    name: str
    bio: str | None
    created_at: datetime


class UserCreate(BaseModel):
    email: EmailStr = Field(max_length=255)
    name: str = Field(min_length=1, max_length=100)
    bio: str | None = Field(default=None, max_length=1000)


class UserUpdate(BaseModel):
    email: EmailStr | None = Field(default=None, max_length=255)
    name: str | None = Field(default=None, min_length=1, max_length=100)
    bio: str | None = Field(default=None, max_length=1000)


class UserService(service.SQLAlchemyAsyncRepositoryService[UserModel]):
    class Repository(repository.SQLAlchemyAsyncRepository[UserModel]):
        model_type = UserModel

    repository_type = Repository


async def provide_users(db_session: AsyncSession) -> AsyncGenerator[UserService, None]:
    async with UserService.new(session=db_session) as users:
        yield users


@get("/users")
async def list_users(
    users: UserService,
    limit: Annotated[int, Parameter(ge=1, le=100)] = 100,
    offset: Annotated[int, Parameter(ge=0)] = 0,
) -> Sequence[User]:
    rows = await users.list(LimitOffset(limit, offset), order_by=("id", False))
    return users.to_schema(rows, schema_type=User).items


@get("/users/{user_id:int}")
async def get_user(users: UserService, user_id: int) -> User:
    return users.to_schema(await users.get(user_id), schema_type=User)


@post("/users")
async def create_user(users: UserService, data: UserCreate) -> User:
    return users.to_schema(await users.create(data), schema_type=User)


@patch("/users/{user_id:int}")
async def update_user(users: UserService, user_id: int, data: UserUpdate) -> User:
    return users.to_schema(await users.update(data, item_id=user_id), schema_type=User)


app = Litestar(
    route_handlers=[list_users, get_user, create_user, update_user],
    dependencies={"users": Provide(provide_users)},
    plugins=[
        SQLAlchemyPlugin(
            config=SQLAlchemyAsyncConfig(
                connection_string=os.environ["DATABASE_URL"],
                engine_config=EngineConfig(pool_size=10, max_overflow=0),
                session_config=AsyncSessionConfig(expire_on_commit=False),
                before_send_handler="autocommit",
            )
        )
    ],
)
