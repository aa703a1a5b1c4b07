<%
path = f"/{r.plural}"
references = [field for field in r.fields if field.kind.table]
uniques = [field for field in r.fields if field.unique and not field.kind.table]
# Those whose value in Python is that of JSON, or is it as a str.
comparable = [field for field in r.fields if field.required or field.name in r.plain and r.plain[field.name] is not None]
comparable = [field for field in comparable if field.kind.shown in ("int", "str", "bool", "UUID")]
required = "".join(f', ("body", "{field.name}")' for field in r.required)
%>\
"""The ${r.many}, over HTTP."""

% if r.has_uuids:
from uuid import UUID

% endif
import httpx
from sqlmodel.ext.asyncio.session import AsyncSession
from nutshell.tests.fixtures import assert_problem
from models import ${r.cls}
from tests.rows import ${"Row, " if r.plain else ""}make_${r.name}

% if references:
ABSENT = ${'"01990000-0000-7000-8000-ffffffffffff"' if references[0].kind.shown == "UUID" else "2**53 - 1"}


% endif
async def test_create_${r.name}_stores_it(client: httpx.AsyncClient, session: AsyncSession) -> None:
    row = await make_${r.name}(client, 1)
% if r.plain:
    expected: Row = ${r.plain}
    assert row.items() >= expected.items()
% endif
    assert (await client.get(f"${path}/{row['id']}")).json() == row
    stored = await session.get(${r.cls}, ${'UUID(row["id"])' if r.has_uuids else 'row["id"]'})
    assert stored is not None
% for field in comparable[:1]:
%   if field.kind.shown == "UUID":
    assert str(stored.${field.name}) == row["${field.name}"]
%   else:
    assert stored.${field.name} == row["${field.name}"]
%   endif
% endfor


% if required:
async def test_create_${r.name}_without_required_fields_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("${path}", json={})
    assert_problem(response, 422${required})
    assert (await client.get("${path}")).json() == []


% endif
% for field in uniques[:1]:
async def test_update_${r.name}_to_taken_${field.name}_conflicts(client: httpx.AsyncClient) -> None:
%   if field.required:
    first = await make_${r.name}(client, 1)
%   else:
    first = await make_${r.name}(client, 1)
    url = f"${path}/{first['id']}"
    first = (await client.patch(url, json={"${field.name}": ${repr(field.kind.examples[0])}})).json()
%   endif
    second = await make_${r.name}(client, 2)
    url = f"${path}/{second['id']}"
    response = await client.patch(url, json={"${field.name}": first["${field.name}"]})
    assert_problem(response, 409, ("body", "${field.name}"))
    assert (await client.get(url)).json() == second


% endfor
% for field in references[:1]:
async def test_update_${r.name}_to_absent_${field.name.removesuffix("_id")}_conflicts(client: httpx.AsyncClient) -> None:
    row = await make_${r.name}(client, 1)
    url = f"${path}/{row['id']}"
    response = await client.patch(url, json={"${field.name}": ABSENT})
    assert response.status_code == 409
    assert ["body", "${field.name}"] in [error["loc"] for error in response.json()["errors"]]
    assert (await client.get(url)).json() == row


% endfor
% if r.searches:
async def test_list_${r.plural}_filters(client: httpx.AsyncClient) -> None:
    await make_${r.name}(client, 1)
    second = await make_${r.name}(client, 2)
    url = f"${path}/{second['id']}"
    second = (await client.patch(url, json=second | ${r.changes})).json()
%   if len(r.searches) > 1:
    for query in (${", ".join(map(repr, r.searches))}):
        assert (await client.get(f"${path}?{query}")).json() == [second], query
%   else:
    assert (await client.get("${path}?${r.searches[0]}")).json() == [second]
%   endif
% endif
