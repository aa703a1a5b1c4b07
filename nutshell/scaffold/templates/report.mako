<%
deleted = [field for field in r.fields if field.kind.table and field.kind.table != r.plural]
%>\
Written:
  models.py                ${r.cls} and its schemas
  main.py                  the five routes of /${r.plural}
  tests/rows.py            make_${r.name}
  tests/test_${r.plural}.py
  ${migration}

% for field in deleted:
%   if field.kind.on_delete == "CASCADE":
Deleting a row of ${field.kind.table} now deletes its ${r.many}: say so in the docstring of delete_${r.singular(field)}.
%   elif field.kind.on_delete == "SET NULL":
Deleting a row of ${field.kind.table} now sets ${field.name} of its ${r.many} to null: say so in the docstring of delete_${r.singular(field)}.
%   else:
Deleting a row of ${field.kind.table} is now a 409 while ${r.many} refer to it: say so in the docstring of delete_${r.singular(field)}.
%   endif
% endfor
% if deleted:

% endif
Read the migration first: types, lengths, ondelete, and whether downgrade undoes all of upgrade. Then:
  .venv/bin/alembic upgrade head    a running `make run` then serves /${r.plural}
  make check
  make test
  git add -A && git commit -m "Add ${r.many}"
