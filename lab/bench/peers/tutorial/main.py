"""FastAPI and SQLModel as SQLModel's tutorial writes them: sync routes, sync sessions, refresh."""

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query
from pydantic import EmailStr
from sqlalchemy.exc import IntegrityError
from sqlmodel import BigInteger, Field, Session, SQLModel, create_engine, select


class UserBase(SQLModel):
    name: str = Field(min_length=1, max_length=100)
    bio: str | None = Field(default=None, max_length=1000)


class User(UserBase, table=True):
    __tablename__ = "users"

    id: int | None = Field(default=None, primary_key=True, sa_type=BigInteger)
    email: str = Field(unique=True, max_length=255)
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


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


engine = create_engine(os.environ["DATABASE_URL"], pool_size=10, max_overflow=0)


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session)]

app = FastAPI()


@app.get("/users", response_model=list[UserPublic])
def read_users(
    session: SessionDep, offset: int = 0, limit: Annotated[int, Query(le=100)] = 100
) -> Sequence[User]:
    return session.exec(select(User).order_by(User.id).offset(offset).limit(limit)).all()


@app.get("/users/{user_id}", response_model=UserPublic)
def read_user(user_id: int, session: SessionDep) -> User:
    user = session.get(User, user_id)
    if not user:
        raise HTTPException(status_code=404, detail="User not found")
    return user


@app.post("/users", response_model=UserPublic, status_code=201)
def create_user(user: UserCreate, session: SessionDep) -> User:
    db_user = User.model_validate(user)
    session.add(db_user)
    try:
        session.commit()
    except IntegrityError:
        raise HTTPException(status_code=409, detail="Email already registered") from None
    session.refresh(db_user)
    return db_user


@app.patch("/users/{user_id}", response_model=UserPublic)
def update_user(user_id: int, user: UserUpdate, session: SessionDep) -> User:
    db_user = session.get(User, user_id)
    if not db_user:
        raise HTTPException(status_code=404, detail="User not found")
    db_user.sqlmodel_update(user.model_dump(exclude_unset=True))
    session.add(db_user)
    session.commit()
    session.refresh(db_user)
    return db_user
