"""What the service costs before it does anything: disk, memory, start. `make footprint` runs it.

It must run in a virtual environment that holds requirements.txt and nothing else but pip.
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.metadata import distributions
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
PORT = 8765
STARTS = 5

# Imports all that a worker, a release and an e-mail address need, then names the packages left over.
UNUSED = """
import sys, importlib.metadata
import main, nutshell.__main__, uvloop, zttp, psycopg, aiosqlite, alembic.command
from uvicorn.protocols.http import zttp_impl
files = {module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)}
for package in importlib.metadata.distributions():
    own = {str(package.locate_file(file)) for file in package.files or ()}
    if package.name != "pip" and not own & files:
        print(package.name)
"""


def installed_bytes() -> int:
    return sum(
        Path(str(file.locate())).stat().st_size
        for package in distributions()
        if package.name != "pip"
        for file in package.files or ()
        if Path(str(file.locate())).is_file()
    )


def resident_kilobytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def start(folder: str) -> tuple[float, int]:
    """Seconds from the start of the process to its first answer, and its resident memory in kB."""
    environment = os.environ | {"PORT": str(PORT), "DATABASE_URL": f"sqlite:///{folder}/test.db"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "nutshell"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=5).close()
            except urllib.error.URLError:
                if process.poll() is not None or time.perf_counter() > began + 30:
                    raise
                time.sleep(0.005)
            else:
                took = time.perf_counter() - began
                time.sleep(0.5)
                return took, resident_kilobytes(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    print(
        f"installed: {installed_bytes() / 1e6:.0f} MB in {len(list(distributions())) - 1} packages"
    )
    with TemporaryDirectory() as folder:
        start(folder)  # compiles the bytecode, makes the tables
        starts = [start(folder) for _ in range(STARTS)]
    print(f"resident memory of an idle worker: {median(kb for _, kb in starts) / 1e3:.0f} MB")
    print(f"start to first answer: {median(took for took, _ in starts):.2f} s")
    unused = subprocess.run(
        [sys.executable, "-c", UNUSED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    print("packages that nothing imports:", ", ".join(unused.stdout.split()) or "none")


if __name__ == "__main__":
    main()
