from collections.abc import Sequence
from typing import Annotated, Any
from fastapi import Query, Response
from sqlmodel import col
from models import ${r.cls}, ${r.cls}Create, ${r.cls}Filter, ${r.cls}Read, ${r.cls}Update
from nutshell.conditional import IfMatchDep
from nutshell.database import SessionDep
from nutshell.fields import Id
from nutshell.routes import ReplyDep
