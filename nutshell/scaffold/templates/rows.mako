async def make_${r.name}(client: httpx.AsyncClient, number: int) -> Row:
% if r.apart:
    # Each parent has a number of its own, because both may need rows of the same table.
% endif
    return await create(client, "/${r.plural}"${"".join(f", {argument}" for argument in r.row())})
