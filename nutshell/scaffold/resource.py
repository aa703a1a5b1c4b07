"""A resource as the templates of `make resource` need it: each line of code and of documentation."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from nutshell.scaffold.english import (
    article,
    camel,
    docstring,
    enumerated,
    words,
)
from nutshell.scaffold.fields import Field
from nutshell.scaffold.kinds import NOT_KNOWN


@dataclass
class Resource:
    """What the templates write."""

    name: str
    plural: str  # also the table, and the first part of the path
    fields: list[Field]
    aliases: dict[str, str]  # types to define in models.py
    parents: list[tuple[Field, str]]  # required references, and the functions that make such rows
    apart: bool  # whether the parents may need rows of the same table
    singulars: dict[str, str]  # what the tables call one row
    has_uuids: bool  # whether its ids are UUIDs

    @property
    def cls(self) -> str:
        return camel(self.name)

    @property
    def one(self) -> str:
        return words(self.name)

    @property
    def many(self) -> str:
        return words(self.plural)

    @property
    def required(self) -> list[Field]:
        return [field for field in self.fields if field.required]

    def base(self, field: Field) -> str:
        """The line of a field in the Base schema."""
        kind, options = field.kind, []
        if field.default is not None:
            options.append(field.default.code)
        elif field.nullable:
            options.append("default=None")
        if kind.table:
            options.append(f'foreign_key="{kind.table}.id"')
            options += [f'ondelete="{kind.on_delete}"'] if kind.on_delete else []
        options += ["unique=True"] if field.unique else []
        column = kind.nullable_column if field.nullable else kind.column
        options += [f"sa_type={column}"] if column else []
        if field.default is None and not (kind.table and field.nullable):
            options.append(f'schema_extra={{"examples": [{kind.examples[0]!r}]}}')
        if len(options) == 1 and options[0].startswith("default="):
            return f"{field.name}: {annotation(field)} = {options[0].removeprefix('default=')}"
        return f"{field.name}: {annotation(field)} = Field({', '.join(options)})"

    def read(self, field: Field) -> str:
        null = " | None" if field.nullable and field.kind.shown != "Any" else ""
        return f"{field.name}: {field.kind.shown}{null}"

    def update(self, field: Field) -> str:
        return f"{field.name}: {annotation(field)} = {'None' if field.nullable else 'LEFT_OUT'}"

    def filter(self, field: Field) -> list[str]:
        lines = [f"{field.name}: {field.kind.query} = LEFT_OUT"] if field.equality else []
        lines += [f"{field.null_filter}: FlagQuery = LEFT_OUT"] if field.null_filter else []
        return lines + [f"{name}: {field.kind.query} = LEFT_OUT" for name in field.range_filters]

    @property
    def id_type(self) -> str:
        """Of a row's path."""
        return "UuidId" if self.has_uuids else "Id"

    @property
    def table_args(self) -> list[str]:
        names = [field.name for field in self.fields if field.sortable and not field.unique]
        arguments = [f'Index(None, "{name}", "id")' for name in names]
        for field in self.fields:
            if field.kind.checked:
                arguments.append(f'allow_only("{field.name}", {field.kind.type})')
        return arguments if self.has_uuids else [*arguments, "NEVER_REUSE_IDS"]

    @property
    def sort(self) -> list[str]:
        return ["id", *(field.name for field in self.fields if field.sortable)]

    @property
    def example(self) -> str:
        """The change that /docs proposes: what happens to such a row most often."""
        last = ("date", "datetime", "UUID", "Any")
        own = [field for field in self.fields if not field.kind.table]
        own.sort(key=lambda field: (not field.kind.filtered, field.kind.shown in last))
        field = next(iter(own or self.fields))
        return f"{field.name}={other(field)!r}"

    @property
    def title(self) -> str:
        return self.many.capitalize()

    # Docstrings

    @property
    def list_docstring(self) -> str:
        sentences = [f"Lists {self.many}."]
        if exact := [
            field for field in self.fields if field.equality and field.kind.type != "Email"
        ]:
            find = "finds" if len(exact) == 1 else "find"
            sentences.append(f"{enumerated(names_of(exact))} {find} {self.many} with that value.")
        for field in self.fields:
            if field.equality and field.kind.type == "Email":
                sentences.append(
                    f"`{field.name}` finds the {self.one} with that address, ignoring case."
                    if field.unique
                    else f"`{field.name}` ignores case."
                )
        if ranged := [field for field in self.fields if field.kind.ranged]:
            days = all(field.kind.shown == "date" for field in ranged)
            names = [name for field in ranged for name in field.range_filters]
            sentences.append(
                f"{enumerated(names)} exclude that {'day' if days else 'time'} itself."
            )
        if nullable := [field for field in self.fields if field.null_filter]:
            find = enumerated([f"{field.null_filter}=true" for field in nullable])
            found = f"`{nullable[0].name}`" if len(nullable) == 1 else "that value"
            verb = "finds" if len(nullable) == 1 else "find"
            sentences.append(f"{find} {verb} {self.many} without {found}.")
        return docstring(sentences)

    @property
    def conflicts(self) -> str:
        """When creating or changing a row answers 409."""
        unique = [field for field in self.fields if field.unique]
        references = [field for field in self.fields if field.kind.table]
        found = []
        if unique:
            case = ", ignoring case" if all(f.kind.type == "Email" for f in unique) else ""
            found.append(f"another {self.one} has this {enumerated(names_of(unique), 'or')}{case}")
        if len(references) == 1:
            found.append(
                f"there is no {words(self.singular(references[0]))} `{references[0].name}`"
            )
        elif references:
            found.append(f"{enumerated(names_of(references), 'or')} refers to no row")
        return f"409 if {', or if '.join(found)}." if found else ""

    def singular(self, field: Field) -> str:
        """What the table of a reference calls one row."""
        return self.singulars[str(field.kind.table)]

    @property
    def create_docstring(self) -> str:
        sentences = [f"Creates {article(self.one)}."]
        return docstring([*sentences, self.conflicts] if self.conflicts else sentences)

    @property
    def update_docstring(self) -> str:
        sentences = ["Changes only the fields sent."]
        if nullable := [field for field in self.fields if field.nullable]:
            sentences.append(f"{enumerated(names_of(nullable))} may be null.")
        if self.conflicts:
            sentences.append("409 as on create.")
        return docstring(sentences)

    @property
    def delete_docstring(self) -> str:
        return docstring([f"Deletes {article(self.one)}."])

    # Rows and tests

    def row(self) -> list[str]:
        """The arguments of tests/rows.py for a valid row."""
        makers = dict(zip([field.name for field, _ in self.parents], self.parents, strict=True))
        arguments = []
        for field in self.required:
            if field.name in makers:
                number = "number"
                if self.apart:
                    number = f"100 * (number + 1) + {list(makers).index(field.name) + 1}"
                value = f'(await {makers[field.name][1]}(client, {number}))["id"]'
            elif field.unique:
                value = str(field.kind.unique)
            else:
                value = repr(field.kind.examples[0])
            arguments.append(f"{field.name}={value}")
        return arguments

    @property
    def plain(self) -> dict[str, Any]:
        """What a row made so shows beyond its references and what is unique."""
        shown = {}
        for field in self.fields:
            if field.required:
                if not field.unique and not field.kind.table:
                    shown[field.name] = field.kind.examples[0]
            elif field.default is None:
                shown[field.name] = None
            elif field.default.value is not NOT_KNOWN:
                shown[field.name] = field.default.value
        return shown

    @property
    def changes(self) -> dict[str, Any]:
        """Other values of all fields with a filter."""
        fields = [field for field in self.fields if field.sortable and not field.kind.table]
        return {field.name: other(field) for field in fields}

    @property
    def searches(self) -> list[str]:
        """Query strings that find only a row with the `changes`, and no new one."""
        found = []
        for field in self.fields:
            if field.kind.table:
                continue
            if field.equality:
                found.append(f"{field.name}={in_query(other(field))}")
            if field.null_filter and field.default is None:
                found.append(f"{field.null_filter}=false")
            if field.kind.ranged and not field.unique:
                found.append(f"{field.range_filters[1]}={in_query(field.kind.examples[0])}")
        return found


def in_query(value: Any) -> str:
    return quote(str(value).lower() if isinstance(value, bool) else str(value), safe=":")


def names_of(fields: list[Field]) -> list[str]:
    return [field.name for field in fields]


def annotation(field: Field) -> str:
    return f"{field.kind.type} | None" if field.nullable else field.kind.type


def other(field: Field) -> Any:
    """A value that a new row does not have."""
    first, second = field.kind.examples
    return first if field.default is not None and field.default.value == second else second
