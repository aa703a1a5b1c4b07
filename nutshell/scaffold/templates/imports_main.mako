from collections.abc import Sequence
from typing import Annotated, Any
from fastapi import Query, Response
from sqlmodel import col
from nutshell.conditional import IfMatchDep
from nutshell.database import SessionDep
from nutshell.fields import Id, UuidId
from nutshell.routes import ReplyDep
