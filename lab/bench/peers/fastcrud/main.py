"""FastCRUD in FastAPI's routes, with the async sessions of its guide, and asyncpg."""

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query
from fastcrud import FastCRUD
from pydantic import BaseModel, EmailStr, Field
from sqlalchemy import BigInteger, DateTime
from sqlalchemy.exc import IntegrityError, NoResultFound
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    bio: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), default=lambda: datetime.now(UTC)
    )


class UserCreate(BaseModel):
    email: EmailStr = Field(max_length=255)
    name: str = Field(min_length=1, max_length=100)
    bio: str | None = Field(default=None, max_length=1000)


class UserUpdate(BaseModel):
    email: EmailStr | None = Field(default=None, max_length=255)
    name: str | None = Field(default=None, min_length=1, max_length=100)
    bio: str | None = Field(default=None, max_length=1000)


class UserRead(BaseModel):
    id: int
    email: str
    name: str
    bio: str | None
    created_at: datetime


engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=10, max_overflow=0)
sessions = async_sessionmaker(engine, expire_on_commit=False)


async def get_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session)]

app = FastAPI()
users = FastCRUD(User)


@app.get("/users", response_model=list[UserRead])
async def read_users(
    session: SessionDep, offset: int = 0, limit: Annotated[int, Query(le=100)] = 100
) -> Any:
    page = await users.get_multi(
        session,
        offset=offset,
        limit=limit,
        schema_to_select=UserRead,
        sort_columns="id",
        return_total_count=False,
    )
    return page["data"]


@app.get("/users/{user_id}", response_model=UserRead)
async def read_user(user_id: int, session: SessionDep) -> Any:
    user = await users.get(session, schema_to_select=UserRead, id=user_id)
    if user is None:
        raise HTTPException(status_code=404, detail="User not found")
    return user


@app.post("/users", response_model=UserRead, status_code=201)
async def create_user(data: UserCreate, session: SessionDep) -> Any:
    try:
        return await users.create(session, data, schema_to_select=UserRead)
    except IntegrityError:
        raise HTTPException(status_code=409, detail="Email already registered") from None


@app.patch("/users/{user_id}", response_model=UserRead)
async def update_user(user_id: int, data: UserUpdate, session: SessionDep) -> Any:
    try:
        return await users.update(
            session,
            data,
            schema_to_select=UserRead,
            return_columns=list(UserRead.model_fields),
            id=user_id,
        )
    except NoResultFound:
        raise HTTPException(status_code=404, detail="User not found") from None
