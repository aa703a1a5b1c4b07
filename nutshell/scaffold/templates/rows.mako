<%! from nutshell.scaffold.kinds import ONE_LETTER %>\
async def make_${r.name}(client: httpx.AsyncClient, number: int) -> Row:
% if any(field.required and field.unique and field.kind.unique == ONE_LETTER for field in r.fields):
    # A number could be too long for so short a text, so it is one of 20,000 letters.
% endif
% if r.apart:
    # Each parent has a number of its own, because both may need rows of the same table.
% endif
    return await create(client, "/${r.plural}"${"".join(f", {argument}" for argument in r.row())})
