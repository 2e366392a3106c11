"""Imports go one way, and heavy or optional libraries stay in their places."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "flamingo").rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES}

#: For each part of the package the parts that it may import, besides itself.
MAY_IMPORT = {
    "utils": set(),
    "results": set(),
    "headline_metrics": set(),
    "history": {"results"},
    "row_fields": {"results"},
    "difference_rows": {"results", "row_fields"},
    "measure_rows": {"results", "row_fields"},
    "data": set(),
    "model": set(),
    "inference": {"data", "model"},
    "training": {"data", "model", "inference"},
    "evaluation": {"data", "model", "inference"},
    "report": set(),
    "interop": {"data", "model"},
    "synthetic": {"data", "model", "evaluation"},
    "__init__": {"auto_classes", "data"},
    "auto_classes": {"data", "model"},
}
#: The schemas of result files, and the metrics that stand for a task: every other part may import them.
SCHEMAS = ("results", "history", "row_fields", "difference_rows", "measure_rows", "headline_metrics")
#: Of these parts the synthetic benchmark may import some modules only. The attention study inspects a model.
SYNTHETIC_MAY_IMPORT = (
    "flamingo.model.inspection",
    "flamingo.model.modeling",
    "flamingo.evaluation.protocol",
    "flamingo.evaluation.tasks",
    "flamingo.evaluation.metrics",
)
#: Files that import nothing of this project but what is named here.
LEAVES: dict[str, set[str]] = {
    "data/document.py": set(),
    "model/attention.py": set(),
    "evaluation/metrics/tokenization/__init__.py": set(),
    "evaluation/metrics/tokenization/ptb.py": set(),
    "evaluation/metrics/tokenization/characters.py": set(),
    "evaluation/metrics/tokenization/unicode_words.py": set(),
    "evaluation/metrics/resampling.py": set(),
    "evaluation/metrics/corpus.py": {"flamingo.evaluation.metrics.resampling"},
    "evaluation/metrics/meteor.py": {"flamingo.evaluation.metrics.corpus", "flamingo.evaluation.metrics.resampling"},
    "evaluation/metrics/cider.py": set(),
    "evaluation/metrics/captions.py": {
        "flamingo.evaluation.metrics.cider",
        "flamingo.evaluation.metrics.corpus",
        "flamingo.evaluation.metrics.resampling",
    },
}
#: These appear in experiments/ alone, which the library does not import either.
ONLY_IN_EXPERIMENTS = {"experiments", "hydra", "omegaconf", "wandb"}


def imported(path: Path) -> set[str]:
    """Full names of all modules that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            assert node.module is not None
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def wrong_imports(path: Path) -> set[str]:
    """Returns the imports of a file of the package that its part may not have."""
    place = path.relative_to(ROOT / "flamingo")
    part = place.parts[0].removesuffix(".py")
    names = imported(path)
    allowed = MAY_IMPORT[part] | {part}
    if part != "utils":
        allowed |= {"utils"} if part in SCHEMAS else {"utils", *SCHEMAS}
    wrong = {name for name in names if name.startswith("flamingo.") and name.split(".")[1] not in allowed}
    if part == "synthetic":
        harness = {name for name in names if name.startswith(("flamingo.model", "flamingo.evaluation"))}
        wrong |= {name for name in harness if not name.startswith(SYNTHETIC_MAY_IMPORT)}
    if part != "__init__":
        wrong |= names & {"flamingo"}  # files import a module, not the package
    if str(place) in LEAVES:
        utils = {module for module in MODULES if module.startswith("flamingo.utils")}
        wrong |= (names & (MODULES - utils)) ^ LEAVES[str(place)]
    return wrong | {name for name in names if name.split(".")[0] in ONLY_IN_EXPERIMENTS}


def test_imports_go_one_way():
    wrong = {str(path.relative_to(ROOT)): wrong_imports(path) for path in FILES}
    assert {place: names for place, names in wrong.items() if names} == {}


@pytest.mark.parametrize(
    ("place", "line", "name"),
    [
        ("data/a.py", "from flamingo.model import b", "flamingo.model"),
        ("utils/a.py", "import flamingo.results", "flamingo.results"),
        ("model/a.py", "import flamingo", "flamingo"),
        ("model/a.py", "import wandb", "wandb"),
        ("training/a.py", "def f():\n    from experiments import train", "experiments"),
        ("synthetic/a.py", "from flamingo.evaluation.harness import evaluate", "flamingo.evaluation.harness"),
        ("data/document.py", "from flamingo.data.records.record import Record", "flamingo.data.records.record"),
    ],
)
def test_a_wrong_import_is_found(place, line, name, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_imports.ROOT", tmp_path)
    path = tmp_path / "flamingo" / place
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert name in wrong_imports(path)


def test_there_are_no_cycles():
    graph = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): imported(path)
        for path in FILES
        if path.name != "__init__.py"
    }
    graph = {module: names & graph.keys() for module, names in graph.items()}
    while graph:
        leaves = {module for module, names in graph.items() if not names}
        assert leaves, f"a cycle among {sorted(graph)}"
        graph = {module: names - leaves for module, names in graph.items() if module not in leaves}


def test_a_name_of_the_package_is_imported_when_it_is_used():
    program = (
        "import sys, flamingo; assert 'torch' not in sys.modules and 'transformers' not in sys.modules;"
        "from flamingo import FlamingoProcessor; from transformers import AutoConfig;"
        "print(AutoConfig.for_model('flamingo').model_type, [getattr(flamingo, name) for name in flamingo.__all__])"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("flamingo ")


@pytest.mark.full
def test_commands_import_without_hydra_omegaconf_and_wandb():
    program = (
        "import sys; sys.modules |= dict.fromkeys(['hydra', 'omegaconf', 'wandb']);"
        "from experiments import caption, convert, evaluate, pretrain_language, pretrain_vision, report, train;"
        "from experiments import retrieve, zero_shot;"
        "from experiments.setup import build;"
        "from experiments.runs import run_captioning, run_conversion, run_evaluation, run_language_pretraining;"
        "from experiments.runs import run_report, run_training, run_vision_pretraining, run_word_attention;"
        "from experiments.runs import run_retrieval, run_zero_shot;"
        "from flamingo.synthetic import SyntheticBindingConfig as BindingConfig;"
        "task = BindingConfig(kind='synthetic_binding', num_queries=4, num_ways=2);"
        "print(evaluate.EvaluateConfig(task=task).task.kind)"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "synthetic_binding\n"
