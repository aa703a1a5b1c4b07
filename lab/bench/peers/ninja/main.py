"""Django Ninja: ModelSchema, the ORM, persistent connections; gunicorn runs it with threads."""

import os
from typing import Any
from urllib.parse import unquote, urlsplit

import django
from django.conf import settings

url = urlsplit(os.environ["DATABASE_URL"])
settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": url.hostname,
            "PORT": url.port,
            "USER": url.username,
            "PASSWORD": unquote(url.password or ""),
            "NAME": url.path.removeprefix("/"),
            "CONN_MAX_AGE": None,
            "ATOMIC_REQUESTS": "ATOMIC_REQUESTS" in os.environ,
        }
    },
    DEBUG=False,
    INSTALLED_APPS=[],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
    ROOT_URLCONF="main",
    SECRET_KEY="only for the benchmark",
    USE_TZ=True,
)
django.setup()

from django.core.wsgi import get_wsgi_application
from django.db import IntegrityError, models
from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from django.urls import path
from django.utils import timezone
from ninja import ModelSchema, NinjaAPI, PatchDict, Query, Schema
from ninja.errors import HttpError
from pydantic import EmailStr, Field


class User(models.Model):
    id = models.BigAutoField(primary_key=True)
    email = models.EmailField(max_length=255, unique=True)
    name = models.CharField(max_length=100)
    bio = models.TextField(null=True, max_length=1000)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        app_label = "main"
        db_table = "users"
        managed = False


class UserIn(Schema):
    email: EmailStr = Field(max_length=255)
    name: str = Field(min_length=1, max_length=100)
    bio: str | None = Field(default=None, max_length=1000)


class UserOut(ModelSchema):
    class Meta:
        model = User
        fields = ("id", "email", "name", "bio", "created_at")


class Page(Schema):
    limit: int = Field(default=100, ge=1, le=100)
    offset: int = Field(default=0, ge=0)


api = NinjaAPI()


@api.get("/users", response=list[UserOut])
def list_users(request: HttpRequest, page: Query[Page]) -> Any:
    return User.objects.order_by("id")[page.offset : page.offset + page.limit]


@api.get("/users/{user_id}", response=UserOut)
def get_user(request: HttpRequest, user_id: int) -> Any:
    return get_object_or_404(User, id=user_id)


@api.post("/users", response={201: UserOut})
def create_user(request: HttpRequest, payload: UserIn) -> Any:
    try:
        return 201, User.objects.create(**payload.dict())
    except IntegrityError:
        raise HttpError(409, "Email already registered") from None


@api.patch("/users/{user_id}", response=UserOut)
def update_user(request: HttpRequest, user_id: int, payload: PatchDict[UserIn]) -> Any:
    user = get_object_or_404(User, id=user_id)
    for name, value in payload.items():
        setattr(user, name, value)
    user.save()
    return user


urlpatterns = [path("", api.urls)]
application = get_wsgi_application()
