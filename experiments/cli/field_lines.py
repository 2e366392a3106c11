"""Reads the line that explains each field of a config dataclass: the ``#:`` comment above it."""

import ast
import inspect
import re
import sys
from dataclasses import fields
from functools import cache

_COMMENT = "#:"
#: The end of a sentence that another one follows.
_NEXT_SENTENCE = re.compile(r"\.\s+(?=[A-Z`\"])")


def field_lines(config: type) -> dict[str, str]:
    """Returns the first sentence of the comment above each field of a dataclass, inherited fields included.

    A field without a comment has the empty line. The comments may have more sentences, for readers of the code.
    """
    comments: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        if cls is not object:
            comments |= _comments(cls)
    return {field.name: _first_sentence(comments.get(field.name, "")) for field in fields(config)}


def first_line(config: type) -> str:
    """Returns the first sentence of a dataclass's docstring."""
    return _first_sentence((config.__doc__ or "").strip())


def _first_sentence(text: str) -> str:
    return _NEXT_SENTENCE.split(" ".join(text.split()))[0].removesuffix(".")


@cache
def _comments(cls: type) -> dict[str, str]:
    """Returns the comments above the fields that a class itself defines, by name. Fields without one are left out."""
    source = _module_source(cls.__module__)
    lines = source.splitlines()
    comments = {}
    for name, line_number in _field_places(source, cls.__name__):
        first = line_number
        while lines[first - 2].strip().startswith(_COMMENT):
            first -= 1
        block = [line.strip().removeprefix(_COMMENT) for line in lines[first - 1 : line_number - 1]]
        if block:
            comments[name] = " ".join(block)
    return comments


@cache
def _module_source(module: str) -> str:
    return inspect.getsource(sys.modules[module])


def _field_places(source: str, class_name: str) -> list[tuple[str, int]]:
    """Returns the name and the line number of each annotated field of a class of a module."""
    places = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for statement in node.body:
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    places.append((statement.target.id, statement.lineno))
    return places
