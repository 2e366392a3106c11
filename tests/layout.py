"""Writes docs/layout.md, the file tree with the first line of each module's docstring: python -m tests.layout."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "layout.md"
PACKAGES = ("flamingo", "experiments")

INTRODUCTION = """# Layout

The folder listing shows the data flow: records -> documents -> batches -> visual tokens -> logits -> loss, or captions
and scores -> report. Imports go one way, and a test holds them to it. `python -m tests.layout` writes this page from
the docstrings.
"""


def page() -> str:
    """Returns the text of docs/layout.md."""
    lines = [line for package in PACKAGES for line in _lines(ROOT / package, 0)]
    width = max(len(name) for name, _ in lines) + 2
    tree = "\n".join(f"{name:{width}}{summary}".rstrip() for name, summary in lines)
    return f"{INTRODUCTION}\n```\n{tree}\n```\n"


def _lines(folder: Path, depth: int) -> Iterator[tuple[str, str]]:
    """Yields the indented name and the summary of a package, then of its modules, then of its subpackages."""
    yield f"{'  ' * depth}{folder.name}/", _summary(folder / "__init__.py")
    for module in sorted(folder.glob("*.py")):
        if module.name != "__init__.py":
            yield f"{'  ' * (depth + 1)}{module.name}", _summary(module)
    for package in sorted(folder.iterdir()):
        if (package / "__init__.py").exists():
            yield from _lines(package, depth + 1)


def _summary(module: Path) -> str:
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    assert docstring, f"{module} has no docstring"
    first_sentence, _, _ = docstring.partition("\n")
    return first_sentence


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
