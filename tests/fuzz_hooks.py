"""What schemathesis cannot know of the service: loaded by SCHEMATHESIS_HOOKS."""

import re
from typing import Any
from uuid import uuid4

import schemathesis
from email_validator import EmailNotValidError, validate_email
from hypothesis import strategies
from schemathesis.specs.openapi.checks import positive_data_acceptance

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

    JSON Schema has no words for such rules: `Refused`, and validators of a whole model.
    """
    if response.status_code == 422 and is_own_rule(response.json()):
        return None
    return positive_data_acceptance(ctx, response, case)


def is_own_rule(problem: dict[str, Any]) -> bool:
    errors = problem.get("errors", [])
    refused = [error["msg"] for error in errors] == [problem["detail"]]
    of_objects = [e["loc"] == ["body"] or isinstance(e["loc"][-1], int) for e in errors]
    of_model = all(of_objects) and {e["type"] for e in errors} == {"value_error"}
    return refused or of_model


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
