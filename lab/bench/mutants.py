"""Changes the code at random, and tells which changes no fast test notices. `make mutants` runs it.

MUTANTS changes are tried (100), drawn with MUTANTS_SEED from all that cosmic-ray knows for `main.py`
and `nutshell/`. It works in a copy of the tree. A change that survives is shown as a diff.
"""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from cosmic_ray.work_db import WorkDB, use_db

from nutshell.tests.service import copy_tree

NUMBER = int(os.environ.get("MUTANTS", "100"))
SEED = int(os.environ.get("MUTANTS_SEED", "20300131"))
TESTS = f"{sys.executable} -m pytest -x -q -n 0 nutshell tests"
CONFIGURATION = f"""
[cosmic-ray]
module-path = ["main.py", "nutshell"]
excluded-modules = ["nutshell/tests/*.py", "nutshell/live/tests/*.py"]
timeout = 300.0
test-command = "{TESTS} -m 'not slow and not soak'"

[cosmic-ray.distributor]
name = "local"
"""
# In this code `|` joins types and dictionaries. To change it breaks every import.
POINTLESS = "core/ReplaceBinaryOperator_BitOr"


def cosmic_ray(tree: Path, *arguments: str) -> None:
    program = Path(sys.executable).with_name("cosmic-ray")
    subprocess.run([program, *arguments], cwd=tree, check=True)


def main() -> None:
    with TemporaryDirectory() as folder:
        tree = copy_tree(Path(folder) / "tree")
        (tree / "mutants.toml").write_text(CONFIGURATION)
        cosmic_ray(tree, "init", "mutants.toml", "session.sqlite")
        with use_db(tree / "session.sqlite", WorkDB.Mode.open) as session:
            everything = [
                item
                for item in session.work_items
                if not item.mutations[0].operator_name.startswith(POINTLESS)
            ]
            drawn = random.Random(SEED).sample(everything, min(NUMBER, len(everything)))
            session.clear()
            session.add_work_items(drawn)
        cosmic_ray(tree, "exec", "mutants.toml", "session.sqlite")
        with use_db(tree / "session.sqlite", WorkDB.Mode.open) as session:
            results = [result for _, result in session.completed_work_items]
    for result in results:
        if not result.is_killed:
            print(result.diff)
    outcomes = Counter("killed" if result.is_killed else "survived" for result in results)
    print(f"{len(everything)} changes known, {len(results)} tried: {dict(outcomes)}")


if __name__ == "__main__":
    main()
