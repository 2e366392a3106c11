"""Public signatures give the shape of every tensor, in axes of the glossary."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import flamingo

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "flamingo").rglob("*.py"))
#: The glossary's axes: ``b``, ``n``, ... A line may have several.
GLOSSARY = {
    axis for names in re.findall(r"^\| ``([^`]+)`` ", flamingo.__doc__ or "", re.MULTILINE) for axis in names.split()
}
#: An axis that is not in the glossary is a noun, a number, any axis, or any number of axes.
OTHER_AXIS = re.compile(r"[a-z]{3,}(_[a-z]+)*|\d+|_|\.\.\.")
#: The types of jaxtyping, with a shape: ``Float[Tensor, "b t d"]``.
JAXTYPING = {"Bool", "Float", "Int", "Num", "Shaped", "UInt8"}


def public_annotations(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.expr]]:
    """Yields the name and the annotation of each parameter, result and field of public functions and classes."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_annotations(node.body, f"{prefix}{node.name}.")
        elif (
            isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_")
        ):
            yield f"{prefix}{node.target.id}", node.annotation
        elif isinstance(node, ast.FunctionDef) and is_public(node.name):
            arguments = node.args
            parameters = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
            parameters += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
            for parameter in parameters:
                if parameter.annotation is not None:
                    yield f"{prefix}{node.name}({parameter.arg})", parameter.annotation
            if node.returns is not None:
                yield f"{prefix}{node.name} ->", node.returns


def is_public(name: str) -> bool:
    return not name.startswith("_") or name.endswith("__")


def shapes(annotation: ast.AST) -> list[str | None]:
    """Returns the shape of each tensor in an annotation; None for a tensor without one."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in JAXTYPING:
        assert isinstance(annotation.slice, ast.Tuple)
        return [ast.literal_eval(annotation.slice.elts[1])]
    if ast.unparse(annotation) in ("Tensor", "torch.Tensor"):
        return [None]
    found: list[str | None] = []
    for child in ast.iter_child_nodes(annotation):
        found += shapes(child)
    return found


def problems(source: str) -> list[str]:
    """Returns the parameters, results and fields whose tensors have no shape, or one of unknown axes."""
    found = []
    for name, annotation in public_annotations(ast.parse(source).body):
        for shape in shapes(annotation):
            if shape is None:
                found.append(f"{name}: a tensor without a shape")
                continue
            unknown = [axis for axis in shape.split() if not is_known(axis)]
            if unknown:
                found.append(f"{name}: the axes {unknown} of {shape!r} are not in the glossary")
    return found


def is_known(axis: str) -> bool:
    """Returns whether an axis, or several of any number (``*n``), is in the glossary, a noun or a number."""
    name = axis.removeprefix("*")
    return name in GLOSSARY or OTHER_AXIS.fullmatch(name) is not None


def test_the_glossary_has_the_axes_of_the_model():
    assert {"b", "n", "bn", "m", "f", "p", "r", "t", "s", "d", "v", "k", "e", "q", "c", "h", "w"} <= GLOSSARY


def test_public_tensors_have_shapes():
    found = {}
    for path in FILES:
        problems_of_file = problems(path.read_text(encoding="utf-8"))
        if problems_of_file:
            found[path.relative_to(ROOT).as_posix()] = problems_of_file
    assert found == {}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("def f(x: Tensor): ...", "f(x)"),
        ("def f(x: torch.Tensor | None = None): ...", "f(x)"),
        ("def f(*xs: Tensor): ...", "f(xs)"),
        ("def f() -> dict[str, list[Tensor]]: ...", "f ->"),
        ("def f(g: Callable[[Tensor], int]): ...", "f(g)"),
        ("class C:\n    x: Tensor", "C.x"),
        ("class C:\n    def __call__(self, x: Tensor): ...", "C.__call__(x)"),
        ("def f(x: Float[Tensor, 'b z']): ...", "f(x)"),
        ("def f(x: tuple[Int[Tensor, 'b t'], Float[Tensor, 'xy']]): ...", "f(x)"),
    ],
)
def test_a_tensor_without_known_axes_is_found(source, name):
    [problem] = problems(source)
    assert problem.startswith(f"{name}:")


@pytest.mark.parametrize(
    "source",
    [
        "def f(x: Float[Tensor, 'b m r width'], y: Shaped[Tensor, '...']) -> Int[Tensor, ' t']: ...",
        "def f(x: Float[Tensor, '*tokens 1 m'] | None): ...",
        "def f(x: Float[Tensor, '']): ...",
        "def _f(x: Tensor): ...",
        "class _C:\n    def f(self, x: Tensor): ...",
    ],
)
def test_known_axes_and_private_functions_are_no_problem(source):
    assert problems(source) == []
