"""Docstrings as the API pages need them.

The docstrings name objects as Sphinx does, and comments ``#:`` describe fields and constants. Griffe, which reads the
sources for these pages, knows neither. This extension makes links of the names, a docstring of the comment of a
constant, and a section ``Attributes`` of the comments of a class.
"""

import re
from typing import Any

import griffe

#: A reference to an object: its name, or its full path.
REFERENCE = re.compile(r":(?:attr|class|data|func|meth|mod):`([\w.]+)`")


class DocstringMarkup(griffe.Extension):
    """Makes links of references, and docstrings of comments."""

    def on_module(self, *, mod: griffe.Module, **_: Any) -> None:
        """Gives the constants of a module their comments as docstrings."""
        for constant in mod.attributes.values():
            if not constant.is_alias and (comment := _comment(constant)):
                constant.docstring = griffe.Docstring(comment, parent=constant)
                _make_links(constant)
        _make_links(mod)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Describes the fields of a class in its docstring."""
        fields = {name: _comment(field) for name, field in cls.attributes.items() if not field.is_alias}
        lines = [f"    {name}: {comment}" for name, comment in fields.items() if comment]
        if cls.docstring and lines:
            cls.docstring.value = "\n".join([cls.docstring.value, "", "Attributes:", *lines])
        _make_links(cls)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Makes links of the references in the docstring of a function."""
        _make_links(func)

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Makes links of the references in the docstring of a property."""
        _make_links(attr)


def _comment(attribute: griffe.Attribute) -> str:
    """Returns the text of the lines ``#:`` above an attribute; an empty text if there are none."""
    if attribute.lineno is None:
        return ""
    lines = attribute.lines_collection[attribute.filepath]
    comment: list[str] = []
    for line in reversed(lines[: attribute.lineno - 1]):
        if not line.lstrip().startswith("#:"):
            break
        comment.insert(0, line.lstrip().removeprefix("#:").strip())
    return " ".join(comment)


def _make_links(obj: griffe.Object) -> None:
    """Makes Markdown links of the references in a docstring."""
    if obj.docstring:
        text = obj.docstring.value
        obj.docstring.value = REFERENCE.sub(lambda match: f"[`{match[1]}`][{_full_path(obj, match[1])}]", text)


def _full_path(obj: griffe.Object, name: str) -> str:
    """Returns the path of an object that a docstring names, from its class, a base of it, or its module.

    A field has no place of its own: its class describes it.
    """
    scope = obj if obj.is_class or obj.is_module else obj.parent
    first, *others = name.split(".")
    if scope is None or first == "flamingo":
        return name
    if scope.is_class and first in scope.all_members:
        member = scope.all_members[first]
        found = scope.path if member.is_attribute else member.canonical_path
    else:
        try:
            found = scope.resolve(first)
        except griffe.NameResolutionError:
            found = first
    return ".".join([found, *others])
