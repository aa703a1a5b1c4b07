"""FastAPI and SQLModel on async sessions and asyncpg, as most articles write them; without `refresh`.

`expire_on_commit=False` makes a `refresh` after each commit needless, so the figures are those of the
better half of the articles.
"""

import os
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query
from pydantic import EmailStr
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlmodel import BigInteger, DateTime, Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession


class UserBase(SQLModel):
    name: str = Field(min_length=1, max_length=100)
    bio: str | None = Field(default=None, max_length=1000)


class User(UserBase, table=True):
    __tablename__ = "users"

    id: int | None = Field(default=None, primary_key=True, sa_type=BigInteger)
    email: str = Field(unique=True, max_length=255)
    created_at: datetime = Field(
        default_factory=lambda: datetime.now(UTC), sa_type=DateTime(timezone=True)
    )


class UserPublic(UserBase):
    id: int
    email: str
    created_at: datetime


class UserCreate(UserBase):
    email: EmailStr = Field(max_length=255)


class UserUpdate(SQLModel):
    email: EmailStr | None = Field(default=None, max_length=255)
    name: str | None = Field(default=None, min_length=1, max_length=100)
    bio: str | None = Field(default=None, max_length=1000)


engine = create_async_engine(os.environ["DATABASE_URL"], pool_size=10, max_overflow=0)
sessions = async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)


async def get_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session)]

app = FastAPI()


@app.get("/users", response_model=list[UserPublic])
async def read_users(
    session: SessionDep, offset: int = 0, limit: Annotated[int, Query(le=100)] = 100
) -> Sequence[User]:
    query = select(User).order_by(col(User.id)).offset(offset).limit(limit)
    return (await session.exec(query)).all()


@app.get("/users/{user_id}", response_model=UserPublic)
async def read_user(user_id: int, session: SessionDep) -> User:
    user = await session.get(User, user_id)
    if not user:
        raise HTTPException(status_code=404, detail="User not found")
    return user


@app.post("/users", response_model=UserPublic, status_code=201)
async def create_user(user: UserCreate, session: SessionDep) -> User:
    db_user = User.model_validate(user)
    session.add(db_user)
    try:
        await session.commit()
    except IntegrityError:
        raise HTTPException(status_code=409, detail="Email already registered") from None
    return db_user


@app.patch("/users/{user_id}", response_model=UserPublic)
async def update_user(user_id: int, user: UserUpdate, session: SessionDep) -> User:
    db_user = await session.get(User, user_id)
    if not db_user:
        raise HTTPException(status_code=404, detail="User not found")
    db_user.sqlmodel_update(user.model_dump(exclude_unset=True))
    session.add(db_user)
    await session.commit()
    return db_user
