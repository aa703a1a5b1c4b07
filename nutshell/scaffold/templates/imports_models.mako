from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID
from annotated_types import MaxLen, MinLen
from sqlalchemy import Index, String
from sqlmodel import Field, SQLModel
from nutshell.columns import JSON_TEXT, MONEY, Exact, ExactNumeric, Json, Money, Price, allow_only
from nutshell.fields import (
    BIGINT,
    LEFT_OUT,
    NEVER_REUSE_IDS,
    REFUSE_UNKNOWN,
    Day,
    Email,
    Flag,
    FlagQuery,
    Id,
    Instant,
    Read,
    Reference,
    Text,
    Update,
    Url,
    Uuid,
    Whole,
    WholeQuery,
    example,
    now,
    uuid7,
)
from nutshell.paging import Filter, UuidFilter
