"""Checks that names of tests have at most 60 characters: python -m tests.names"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LONGEST = 60


def too_long(source: str) -> list[str]:
    """Returns the names of tests in a module's source that have more than ``LONGEST`` characters."""
    names = []
    for node in ast.walk(ast.parse(source)):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function and node.name.startswith("test_") and len(node.name) > LONGEST:
            names.append(node.name)
    return names


def main() -> None:
    """Prints the names that are too long, and exits with 1 if there are any."""
    lines = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for name in too_long(path.read_text(encoding="utf-8")):
            lines.append(f"{path.relative_to(ROOT)}: {name} has {len(name)} characters, at most {LONGEST}")
    print("\n".join(lines) or "names of tests: all at most 60 characters")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
