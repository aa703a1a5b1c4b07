<%
path, row_id = f"/{r.plural}", f"{r.name}_id"
%>\
# ${r.title}


@app.get("${path}", response_model=list[${r.cls}Read])
async def list_${r.plural}(
    filters: Annotated[${r.cls}Filter, Query()], session: SessionDep, reply: ReplyDep
) -> Sequence[Any]:
${r.list_docstring}
    query = filters.select(${r.cls}, ${r.cls}Read)
% for field in r.fields:
%   if field.equality:
    if filters.${field.name} is not None:
        query = query.where(col(${r.cls}.${field.name}) == filters.${field.name})
%   endif
%   if field.null_filter:
    if filters.${field.null_filter} is not None:
        is_null = col(${r.cls}.${field.name}).is_(None)
        query = query.where(is_null if filters.${field.null_filter} else ~is_null)
%   endif
%   for name, sign in zip(field.range_filters, "<>"):
    if filters.${name} is not None:
        query = query.where(col(${r.cls}.${field.name}) ${sign} filters.${name})
%   endfor
% endfor
    return await reply.page(session, query, filters)


@app.post("${path}", response_model=${r.cls}Read, status_code=201)
async def create_${r.name}(data: ${r.cls}Create, session: SessionDep, answer: Response) -> ${r.cls}:
${r.create_docstring}
    ${r.name} = ${r.cls}.model_validate(data)
    session.add(${r.name})
    await session.commit()
    answer.headers["Location"] = f"${path}/{${r.name}.id}"
    return ${r.name}


@app.get("${path}/{${row_id}}", response_model=${r.cls}Read)
async def read_${r.name}(${row_id}: ${r.id_type}, session: SessionDep) -> ${r.cls}:
    """Reads one ${r.one}."""
    return await session.get_one(${r.cls}, ${row_id})


@app.patch("${path}/{${row_id}}", response_model=${r.cls}Read)
async def update_${r.name}(
    ${row_id}: ${r.id_type}, data: ${r.cls}Update, session: SessionDep, if_match: IfMatchDep
) -> ${r.cls}:
${r.update_docstring}
    ${r.name} = await session.get_one(${r.cls}, ${row_id}, with_for_update=True)
    if_match.check(${r.cls}Read, ${r.name})
    ${r.name}.sqlmodel_update(data.changes(${r.name}))
    await session.commit()
    return ${r.name}


@app.delete("${path}/{${row_id}}", status_code=204)
async def delete_${r.name}(${row_id}: ${r.id_type}, session: SessionDep, if_match: IfMatchDep) -> None:
${r.delete_docstring}
    ${r.name} = await session.get_one(${r.cls}, ${row_id}, with_for_update=True)
    if_match.check(${r.cls}Read, ${r.name})
    await session.delete(${r.name})
    await session.commit()
