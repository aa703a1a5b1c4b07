"""What schemathesis cannot know of the service: loaded by SCHEMATHESIS_HOOKS."""

import os
import re
from typing import Any
from uuid import uuid4

import schemathesis
from email_validator import EmailNotValidError, validate_email
from hypothesis import strategies
from schemathesis.specs.openapi.checks import positive_data_acceptance

OWN_RULES = set(os.environ["OWN_RULES"].split())
BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}

# Hypothesis likes to repeat a text, and a key that was used with another body is refused.
schemathesis.openapi.format("idempotency-key", strategies.builds(lambda: uuid4().hex).map(str))


def is_deliverable(address: str) -> bool:
    """JSON Schema has no words for names that are reserved, such as `.test`."""
    try:
        validate_email(address, check_deliverability=False)
    except EmailNotValidError:
        return False
    return True


schemathesis.openapi.format("idn-email", strategies.emails().filter(is_deliverable))


@schemathesis.check
def accepts_valid_data(ctx: Any, response: Any, case: Any) -> bool | None:
    """Data that the document allows is accepted, unless a rule of the service's own refuses it.

    JSON Schema has no words for such rules: `Refused`, validators of a whole model, bounds of what is a
    string in JSON, and OWN_RULES of rows.py.
    """
    if response.status_code == 422:
        problem = response.json()
        errors = problem.get("errors", [])
        refused = [error["msg"] for error in errors] == [problem["detail"]]
        if refused or (errors and all(is_own_rule(error, case.body) for error in errors)):
            return None
    return positive_data_acceptance(ctx, response, case)


def is_own_rule(error: dict[str, Any], body: Any) -> bool:
    if error["loc"][-1] in OWN_RULES:
        return True
    if error["loc"][0] != "body":
        return False
    value = body
    try:
        for key in error["loc"][1:]:
            value = value[key]
    except (LookupError, TypeError):
        return False
    if isinstance(value, dict | list):  # a whole model, or a column of JSON
        return bool(error["type"] == "value_error")
    return isinstance(value, str) and error["type"] in BOUNDS


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    if case.meta is not None and case.meta.generation.mode.is_positive:
        # JSON Schema has no words for these rules either. See Filter.
        if isinstance(case.query, dict):
            case.query.pop("cursor", None)  # only the service can make one
            if case.query.get("sort", "id") != "id":
                case.query.pop("after", None)
        # Schemathesis takes no notice of the pattern of a header.
        if not re.fullmatch(
            r'[*]|((W/)?"[!#-~]*"(, ?)?)+', (case.headers or {}).get("If-Match", "*")
        ):
            case.headers["If-Match"] = '"0"'
    # What is not HTTP reaches no operation.
    for name, value in list((case.headers or {}).items()):
        if isinstance(value, str):
            case.headers[name] = re.sub(r"[\x00-\x1f\x7f]", "", value)
    key = (case.headers or {}).get("idempotency-key")
    if key and re.fullmatch(r"[\w.-]{1,255}", key, re.ASCII):
        case.headers["idempotency-key"] = uuid4().hex
