"""${title}: its routes.

Each request gets its own database session: see nutshell/database.py. A route that changes data calls
commit() exactly once, as its last database operation. get_one() answers 404 for an unknown id, and
if_match.check() answers 412 for an outdated ETag.
"""

from nutshell.app import create_app

app = create_app("${title}", summary="The ${title} service.", version="0.1.0")

if __name__ == "__main__":
    raise SystemExit("Start the service with `make run`, or with `python -m nutshell`.")
