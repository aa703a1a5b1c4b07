"""`python -m nutshell.scaffold resource` or `new`, with NAME, FIELDS, PLURAL and ID in the environment."""

import os
import sys
from pathlib import Path

from nutshell.scaffold.add import add_resource
from nutshell.scaffold.new import make_new
from nutshell.scaffold.tree import ScaffoldError


def main(command: str) -> None:
    name = os.environ.get("NAME", "")
    try:
        if not name:
            raise ScaffoldError(f"NAME is missing: make {command} NAME=…")
        if command == "new":
            print(make_new(Path.cwd(), name))
        else:
            options = (os.environ.get(option, "") for option in ("FIELDS", "PLURAL", "ID"))
            print(add_resource(Path.cwd(), name, *options))
    except (ScaffoldError, OSError) as error:
        sys.exit(f"{command}: {error}. Nothing was changed.")
    except KeyboardInterrupt:
        sys.exit(f"{command}: interrupted. Nothing was changed.")


if __name__ == "__main__":
    main(*sys.argv[1:])
