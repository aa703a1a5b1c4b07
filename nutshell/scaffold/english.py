"""Names and sentences in the code that `make resource` writes."""

import re
from collections.abc import Sequence

WIDTH = 100


def words(name: str) -> str:
    return name.replace("_", " ")


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def enumerated(names: Sequence[str], word: str = "and") -> str:
    quoted = [f"`{name}`" for name in names]
    return f" {word} ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def article(noun: str) -> str:
    """A guess: `a user`, `an hour`, `an order`."""
    vowel = re.match(r"[aeiou]|hour|honou?r|heir", noun) and not re.match(
        r"uni([^mn]|$)|us[aeiu]|eu|one|ut[ei]|ubi", noun
    )
    return f"{'an' if vowel else 'a'} {noun}"


def pluralized(name: str) -> str:
    if re.search("[^aeiou]y$", name):
        return f"{name[:-1]}ies"
    return f"{name}es" if re.search("(s|x|z|ch|sh)$", name) else f"{name}s"


def snake(name: str) -> str:
    return re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def docstring(sentences: list[str]) -> str:
    """On one line if it fits, else wrapped below its first sentence."""
    whole = f'    """{" ".join(sentences)}"""'
    if len(whole) <= WIDTH:
        return whole
    lines = [""]
    for word in " ".join(sentences[1:]).split():
        if len(lines[-1]) + len(word) + 1 > WIDTH - 4:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    body = "\n".join(f"    {line}" for line in lines)
    return f'    """{sentences[0]}\n\n{body}\n    """'
