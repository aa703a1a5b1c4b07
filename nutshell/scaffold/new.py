from pathlib import Path


def make_new(root: Path, name: str) -> str:
    return ""
