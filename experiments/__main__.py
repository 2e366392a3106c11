"""The ``flamingo`` command: ``flamingo train ...`` is ``python -m experiments.train ...``."""

import ast
import importlib
import importlib.util
import sys
from pathlib import Path

from experiments.cli.command import CONF
from experiments.cli.nearest_key import nearest

#: Configs of ``conf/`` that belong to no command.
_SHARED = ("run",)


def main() -> None:
    """Runs the command that the first argument names; without arguments, lists the commands."""
    names = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem not in _SHARED)
    if len(sys.argv) < 2 or sys.argv[1] in ("--help", "-h", "help"):
        print(_listing(names))
        return
    name = sys.argv[1]
    if name not in names:
        near = nearest(name, names) or "."
        sys.exit(_failure(f"{name} is not a command{near} The commands: {', '.join(names)}"))
    if importlib.util.find_spec("hydra") is None:
        sys.exit(_failure(f"flamingo {name} needs more packages: pip install 'flamingo[experiments]'"))
    sys.argv[:2] = [f"flamingo {name}"]
    importlib.import_module(f"experiments.{name}").main()


def _failure(sentence: str) -> int:
    """Prints an error on stderr.

    Returns:
        The exit status of a user's error.
    """
    print(f"error: {sentence}", file=sys.stderr)
    return 2


def _listing(names: list[str]) -> str:
    width = max(map(len, names)) + 2
    lines = [f"  {name:{width}}{_summary(Path(__file__).parent / name)}" for name in names]
    usage = "flamingo COMMAND KEY=VALUE ...; flamingo COMMAND --help explains every key"
    return "\n".join([usage, "", *lines])


def _summary(module: Path) -> str:
    """Returns the first line of a module's docstring, without importing it."""
    docstring = ast.get_docstring(ast.parse(module.with_suffix(".py").read_text(encoding="utf-8")))
    return (docstring or "").partition("\n")[0]


if __name__ == "__main__":
    main()
