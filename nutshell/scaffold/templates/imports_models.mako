from datetime import date, datetime
from typing import Annotated, Literal
from annotated_types import MaxLen, MinLen
from sqlalchemy import Index, String
from sqlmodel import Field, SQLModel
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
    Reference,
    Text,
    Update,
    Url,
    Whole,
    WholeQuery,
    example,
    now,
)
from nutshell.paging import Filter
