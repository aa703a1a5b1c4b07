"""What FIELDS may say, and what is refused in one line."""

from typing import Any

import pytest

from nutshell.scaffold.english import article, pluralized
from nutshell.scaffold.fields import Field, parse_fields
from nutshell.scaffold.tree import ScaffoldError, Table

TABLES = {
    "users": Table("User"),
    "order_lines": Table("OrderLine"),
    "parcels": Table("Parcel", has_uuids=True),
}
OWN = {"gizmos": Table("Gizmo")}


def parse_one(text: str) -> Field:
    (field,) = parse_fields(text, TABLES, OWN)
    return field


@pytest.mark.parametrize(
    ("text", "name", "type_", "nullable", "unique", "default", "filters"),
    [
        ("title:text:200", "title", "Title", False, False, None, []),
        ("title:text:200?", "title", "Title", True, False, None, []),
        ("title:text:200=Untitled", "title", "Title", False, False, "Untitled", []),
        ("title:text:200='a = b: c?'", "title", "Title", False, False, "a = b: c?", []),
        ("code:text:8:unique", "code", "Code", False, True, None, ["code"]),
        ("code:text:8:unique?", "code", "Code", True, True, None, ["code", "code_is_null"]),
        ("count:whole=-5", "count", "Whole", False, False, -5, []),
        ("read:flag=false", "read", "Flag", False, False, False, ["read"]),
        ("read:flag?=true", "read", "Flag", True, False, True, None),
        ("email:email:unique", "email", "Email", False, True, None, ["email"]),
        ("site:url=https://example.com/a?b=c", "site", "Url", False, False, None, []),
        (
            "status:choice:draft:sent=sent",
            "status",
            "Status",
            False,
            False,
            "sent",
            ["status"],
        ),
        (
            "held_on:day",
            "held_on",
            "Day",
            False,
            False,
            None,
            ["held_on", "held_before", "held_after"],
        ),
        (
            "due_at:instant?",
            "due_at",
            "Instant",
            True,
            False,
            None,
            ["due_at_is_null", "due_before", "due_after"],
        ),
        ("owner:ref:users", "owner_id", "Reference", False, False, None, ["owner_id"]),
        ("owner_id:ref:users", "owner_id", "Reference", False, False, None, ["owner_id"]),
        (
            "owner:ref:users?",
            "owner_id",
            "Reference",
            True,
            False,
            None,
            ["owner_id", "owner_id_is_null"],
        ),
        ("line:ref:order_lines:unique", "line_id", "Reference", False, True, None, ["line_id"]),
        ("parcel:ref:parcels", "parcel_id", "Uuid", False, False, None, ["parcel_id"]),
        ("price:money=5", "price", "Money", False, False, "5.00", []),
        ("price:money?", "price", "Money", True, False, None, []),
        ("weight:decimal:10:3=0.5", "weight", "Weight", False, False, "0.500", []),
        ("key:uuid:unique", "key", "Uuid", False, True, None, ["key"]),
        ("data:json={}", "data", "Json", False, False, {}, []),
        ("held_on:day=2030-01-31", "held_on", "Day", False, False, "2030-01-31", None),
        (
            "parent:ref:gizmos?",
            "parent_id",
            "Reference",
            True,
            False,
            None,
            ["parent_id", "parent_id_is_null"],
        ),
    ],
)
def test_parse_field_understands_each_type(
    text: str,
    name: str,
    type_: str,
    nullable: bool,
    unique: bool,
    default: Any,
    filters: list[str] | None,
) -> None:
    field = parse_one(text)
    assert (field.name, field.kind.type) == (name, type_)
    assert (field.nullable, field.unique) == (nullable, unique)
    if "https" not in text:
        assert (field.default and field.default.value) == default
    if filters is not None:
        assert field.filters == filters


@pytest.mark.parametrize(
    ("text", "on_delete"),
    [
        ("owner:ref:users", None),
        ("owner:ref:users?", "SET NULL"),
        ("owner:ref:users:cascade", "CASCADE"),
        ("owner:ref:users:cascade?", "CASCADE"),
        ("owner:ref:users:restrict?", None),
        ("owner:ref:users:null?", "SET NULL"),
    ],
)
def test_reference_restricts_when_required_and_is_set_to_null_when_not(
    text: str, on_delete: str | None
) -> None:
    assert parse_one(text).kind.on_delete == on_delete


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "FIELDS is missing"),
        ("'", "FIELDS: No closing quotation"),
        ("title", "it has no type"),
        ("title:", "'' is no type; the types are text:200, whole, flag"),
        ("title:string", "'string' is no type"),
        ("title:text", "text needs its greatest length"),
        ("title:text:0", "text needs its greatest length"),
        ("title:text:x", "text needs its greatest length"),
        ("title:text:٣", "text needs its greatest length"),
        ("title:text:5:6", "text needs its greatest length"),
        ("title:text:5=toolong", "'toolong' is no default"),
        ("title:text:5=", "'' is no default"),
        ("title:text:201:unique", "text cannot be unique"),
        ("title:text:20:unique=a", "a default of a unique field"),
        ("Title:text:5", "'Title' is no name"),
        ("_title:text:5", "'_title' is no name"),
        ("a__b:text:5", "'a__b' is no name"),
        ("1st:text:5", "'1st' is no name"),
        ("größe:text:5", "'größe' is no name"),
        (f"{'a' * 31}:flag", "is too long"),
        ("class:text:5", "class is a keyword of Python"),
        ("id:whole", "every resource has id already"),
        ("created_at:instant", "every resource has created_at already"),
        ("limit:whole", "limit is a parameter of every list"),
        ("order:text:5", "order is a parameter of every list"),
        ("metadata:text:5", "metadata is an attribute of every schema"),
        ("changes:text:5", "changes is an attribute of every schema"),
        ("model_dump:text:5", "model_dump is an attribute of every schema"),
        ("date:day", "date is a name that the schemas use"),
        ("ctid:whole", "ctid is a column that databases have already"),
        ("size:choice:s:m", "size cannot be a filter"),
        ("a:flag a:whole", "a is given twice"),
        ("owner:ref:users owner_id:whole", "owner_id is given twice"),
        ("due_at:instant due_on:day", "its filter due_before is also one of due_at"),
        ("due_at:instant due_before:flag", "its filter due_before is also one of due_at"),
        ("count:whole:5", "whole takes no argument"),
        ("count:whole=1.5", "'1.5' is no default"),
        (f"count:whole={2**53}", "is no default"),
        ("read:flag=yes", "'yes' is no default"),
        ("read:flag:unique", "flag cannot be unique"),
        ("held_on:day=tomorrow", "'tomorrow' is no default"),
        ("held_on:day=0", "'0' is no default"),
        ("due_at:instant=today", "'today' is no default"),
        ("price:money=1e5", "'1e5' is no default"),
        ("price:money=1.999", "'1.999' is no default"),
        ("price:money:2", "money takes no argument"),
        ("price:money:unique", "money cannot be unique"),
        ("weight:decimal", "decimal needs its digits"),
        ("weight:decimal:10", "decimal needs its digits"),
        ("weight:decimal:3:3", "decimal needs its digits"),
        ("weight:decimal:19:3", "decimal needs its digits"),
        ("weight:decimal:ten:3", "decimal needs its digits"),
        ("key:uuid=1", "'1' is no default"),
        ("data:json=1", "'1' is no default"),
        ("data:json:unique", "json cannot be unique"),
        ("site:url:unique", "url cannot be unique: an index holds text:200:unique at most"),
        ("now:instant", "now is a name that the schemas use"),
        ("site:url=nowhere", "'nowhere' is no default"),
        ("email:email=ada", "'ada' is no default"),
        ("status:choice", "choice needs two different words"),
        ("status:choice:draft", "choice needs two different words"),
        ("status:choice:draft:draft", "choice needs two different words"),
        ("status:choice:draft:a b", "b: it has no type"),
        ("status:choice:draft:a.b", "'a.b' is no word"),
        ("status:choice:draft:sent=lost", "'lost' is no default"),
        ("owner:ref", "ref needs a table"),
        ("owner:ref:users:delete", "ref needs a table"),
        (
            "owner:ref:nowheres",
            "there is no table nowheres; the tables are order_lines, parcels, users",
        ),
        ("owner:ref:users=1", "ref takes no default"),
        ("owner:ref:users:null", "must be optional"),
        ("parent:ref:gizmos", "a reference to its own table must be optional"),
    ],
)
def test_parse_field_refuses_what_would_not_work(text: str, reason: str) -> None:
    with pytest.raises(ScaffoldError) as raised:
        parse_fields(text, TABLES, OWN)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "plural"),
    [("user", "users"), ("category", "categories"), ("day", "days"), ("box", "boxes")],
)
def test_plural_is_that_of_most_nouns(name: str, plural: str) -> None:
    assert pluralized(name) == plural


@pytest.mark.parametrize(
    ("noun", "phrase"),
    [
        ("bookmark", "a bookmark"),
        ("order line", "an order line"),
        ("hour", "an hour"),
        ("user", "a user"),
        ("unit", "a unit"),
        ("utility", "a utility"),
        ("one", "a one"),
    ],
)
def test_article_fits_the_noun(noun: str, phrase: str) -> None:
    assert article(noun) == phrase
