"""The code in the README and the pages of docs/: blocks, spans, and the command lines in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: The pages by their paths. A changelog names keys of the past, and the layout has its own test.
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
    if path.name != "layout.md"
}
#: A fenced block: its indentation, its language and its lines.
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
#: A command of ours, and its arguments.
COMMAND = re.compile(r"(?:^|\s)-m experiments\.([\w.]+)(.*)|^(?:\$ )?flamingo ([a-z_]+)(.*)")
#: What a reader replaces.
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")
_CODE_LANGUAGES = ("python", "yaml", "json", "bibtex")
_OPTIONS = re.compile(r"--cfg job|--config-dir \S+|--help")


@dataclass(frozen=True)
class CommandLine:
    """A command of ours as a page shows it."""

    name: str
    arguments: tuple[str, ...]

    @property
    def is_sweep(self) -> bool:
        return "-m" in self.arguments

    @property
    def overrides(self) -> list[str]:
        return [argument for argument in self.arguments if argument not in ("-m", "...")]


def blocks(text: str, language: str) -> list[str]:
    """Returns the blocks of a page in one language."""
    return [block for _, name, block in BLOCK.findall(text) if name == language]


def lines(text: str) -> Iterator[str]:
    """Yields the lines of a page's blocks for a shell, with the values of their variables, and its code spans."""
    for _, language, block in BLOCK.findall(text):
        if language in _CODE_LANGUAGES:
            continue
        joined = re.sub(r"\s*\\\n\s*", " ", block)
        variables = dict(re.findall(r'^ *([A-Z]+)="([^"]*)"$', joined, re.MULTILINE))
        for name, value in variables.items():
            joined = joined.replace(f"${name} ", f"{value} ")
        for line in joined.splitlines():
            yield line.strip()
    yield from spans(text)


def spans(text: str) -> list[str]:
    """Returns the code spans of a page, each in one line."""
    return [" ".join(span.split()) for span in SPAN.findall(BLOCK.sub("", text))]


def command_lines(text: str) -> list[CommandLine]:
    """Returns the commands of a page that have arguments, each once."""
    found = []
    for line in lines(text):
        if match := COMMAND.search(line):
            name, arguments = match[1] or match[3], match[2] or match[4] or ""
            split = tuple(shlex.split(_OPTIONS.sub("", arguments), comments=True))
            if split and not PLACEHOLDER.fullmatch(name):
                found.append(CommandLine(name, split))
    return list(dict.fromkeys(found))
