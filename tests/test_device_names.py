"""No device is named outside flamingo/utils/devices.py, which resolves it, and the work on its streams."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: The place that resolves devices; and what measures one, and its peers, by its own tools.
EXEMPT = (
    "flamingo/utils/devices.py",
    "flamingo/utils/device_graph.py",
    "flamingo/training/copying.py",
    "experiments/benchmark/",
    "experiments/gpu_check/",
)
FILES = [
    path
    for folder in ("flamingo", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not str(path.relative_to(ROOT)).startswith(EXEMPT)
]
#: Modules of torch for one kind of device, and attributes of tensors and modules.
MODULES = (
    "torch.cuda",
    "torch.mps",
    "torch.accelerator",
    "torch.backends.cuda",
    "torch.backends.cudnn",
    "torch.backends.mps",
)
ATTRIBUTES = ("is_cuda", "is_mps", "is_cpu")


def places(path: Path) -> list[str]:
    """Returns the lines that name a device."""
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        if _names_device(node):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}")
    return [place for place in found if place not in _allowed(path, tree)]


def _names_device(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and re.fullmatch(r"(cpu|cuda|mps|meta)(:\d+)?", node.value) is not None
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) in ("torch.device", "device") or ast.unparse(node.func).endswith(
            (".cuda", ".mps")
        )
    if isinstance(node, ast.Attribute):
        return ast.unparse(node) in MODULES or node.attr in ATTRIBUTES
    return False


def _allowed(path: Path, tree: ast.AST) -> set[str]:
    """Files are read into the CPU's memory; random states of each device are kept by its name."""
    nodes: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "map_location":
            nodes.append(node.value)
        if isinstance(node, ast.FunctionDef) and "random_states" in node.name:
            nodes += ast.walk(node)
    located = [node for node in nodes if hasattr(node, "lineno")]
    return {f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}" for node in located}


def test_no_device_is_named_outside_the_place_that_resolves_it():
    found = [place for path in FILES for place in places(path)]
    assert found == []


def test_every_way_to_name_a_device_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_device_names.ROOT", tmp_path)
    lines = [
        'x.to("cuda")',
        'y.to(device="cuda:1")',
        'if z.device.type == "mps": pass',
        "x.cuda()",
        "torch.device(name)",
        "torch.cuda.synchronize()",
        "torch.backends.mps.is_available()",
        "x.is_cuda",
        'torch.load(file, map_location="cpu")',
        "def random_states(): return torch.cuda.get_rng_state()",
        "def f(device: torch.device): x.to(device).cpu()",
        '"""CUDA, cuda and cpu."""',
    ]
    (tmp_path / "a.py").write_text("\n".join(lines))
    numbers = {int(place.split(":")[1].split()[0]) for place in places(tmp_path / "a.py")}
    assert numbers == set(range(1, 9))
