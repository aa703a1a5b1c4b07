This is now ${title}, an empty service. Gone are the resources of Nutshell, their tests and migrations, its pages and lab/.

What it needs of you: a sentence about it in main.py, app.json and README.md, and your address in .github/SECURITY.md.
docs/api.md still has examples with the resources of Nutshell. LICENSE must stay. A nutshell.db from before is of no use:
delete it. MAKE_IT_YOURS.md says how to go on. Then:
  make check
  make test
  git add -A && git commit -m "Begin ${title}"
  make resource NAME=bookmark FIELDS='title:text:200 read:flag=false'
