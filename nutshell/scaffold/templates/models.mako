class ${r.cls}Base(SQLModel):
% for field in r.fields:
    ${r.base(field)}
% endfor


class ${r.cls}(${r.cls}Base, table=True):
    __tablename__ = "${r.plural}"
% if r.table_args:
    __table_args__ = (${", ".join(r.table_args)},)
% endif

% if r.has_uuids:
    id: UUID = Field(default_factory=uuid7, primary_key=True)
% else:
    id: int | None = Field(default=None, primary_key=True, sa_type=BIGINT)
% endif
    created_at: datetime = Field(default_factory=now)


class ${r.cls}Create(${r.cls}Base):
    model_config = REFUSE_UNKNOWN


class ${r.cls}Read(Read):
    id: ${"UUID" if r.has_uuids else "int"}
% for field in r.fields:
    ${r.read(field)}
% endfor
    created_at: datetime


class ${r.cls}Update(Update[${r.cls}Read]):
    model_config = example(${r.example})

% for field in r.fields:
    ${r.update(field)}
% endfor


class ${r.cls}Filter(${"UuidFilter" if r.has_uuids else "Filter"}):
% if len(r.sort) > 1:
    sort: Literal[${", ".join(map(repr, r.sort))}] = "id"
%   for field in r.fields:
%     for line in r.filter(field):
    ${line}
%     endfor
%   endfor
% else:
    """It has no filters of its own yet."""
% endif
