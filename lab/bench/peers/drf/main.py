"""Django REST framework: generic views, ModelSerializer, persistent connections; gunicorn with threads.

Its serializer looks for the e-mail address before it inserts it, and answers 400 if there is one.
"""

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
            "ATOMIC_REQUESTS": True,
        }
    },
    DEBUG=False,
    INSTALLED_APPS=["rest_framework"],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "UNAUTHENTICATED_USER": None,
    },
    ROOT_URLCONF="main",
    SECRET_KEY="only for the benchmark",
    USE_TZ=True,
)
django.setup()

from django.core.wsgi import get_wsgi_application
from django.db import models
from django.urls import path
from django.utils import timezone
from rest_framework import generics, serializers


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


class UserSerializer(serializers.ModelSerializer):
    class Meta:
        model = User
        fields = ("id", "email", "name", "bio", "created_at")
        read_only_fields = ("created_at",)


class PageSerializer(serializers.Serializer):
    limit = serializers.IntegerField(default=100, min_value=1, max_value=100)
    offset = serializers.IntegerField(default=0, min_value=0)


class UserList(generics.ListCreateAPIView):
    queryset = User.objects.order_by("id")
    serializer_class = UserSerializer

    def filter_queryset(self, queryset: Any) -> Any:
        page = PageSerializer(data=self.request.query_params)
        page.is_valid(raise_exception=True)
        limit, offset = page.validated_data["limit"], page.validated_data["offset"]
        return queryset[offset : offset + limit]


class UserDetail(generics.RetrieveUpdateAPIView):
    queryset = User.objects.all()
    serializer_class = UserSerializer


urlpatterns = [
    path("users", UserList.as_view()),
    path("users/<int:pk>", UserDetail.as_view()),
]
application = get_wsgi_application()
