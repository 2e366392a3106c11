"""Fixtures of all tests. Shapes and types in signatures are checked at run time, and the backbones are tiny."""

import os
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

ROOT = Path(__file__).parent.parent
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("flamingo/*/**/*.py")}
# transformers looks into the constructors of configurations and processors, which a wrapper hides; and what
# users hand to documents, processors and collation is checked by these themselves.
MODULES -= {
    f"flamingo.model.{name}" for name in ("config", "contrastive_config", "mosaic_gpt_config", "vision_features")
}
MODULES -= {f"flamingo.data.{name}" for name in ("document", "processor", "collate")}
if find_spec("beartype") is not None:  # a GPU machine may lack it
    install_import_hook(sorted(MODULES), "beartype.beartype")

import pytest
import torch

from flamingo import FlamingoForConditionalGeneration
from flamingo.inference.flamingo_engine import FlamingoEngine
from tests import tiny
from tests.helpers import devices

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="of models and their inputs: cpu, cuda, mps, or pretend")


def pytest_configure(config: pytest.Config) -> None:
    devices.start(config.getoption("--device"))


@pytest.fixture
def device() -> torch.device:
    """Returns the device that ``--device`` names."""
    return devices.DEVICE


#: Our own decoder has tests of its own in the default suite.
FAMILIES = [
    pytest.param(family, marks=pytest.mark.full) if family == "mosaic_gpt" else family
    for family in tiny.LANGUAGE_MODELS
]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with one tiny saved backbone per family; see :mod:`tests.tiny`."""
    folder = tmp_path_factory.mktemp("backbones")
    tiny.save_backbones(folder)
    return folder


@pytest.fixture(scope="session", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(backbones: Path, family: str) -> FlamingoForConditionalGeneration:
    """Returns a Flamingo on each family of language models, with open gates."""
    return tiny.flamingo(backbones, language=family)


@pytest.fixture
def gpt2(backbones: Path) -> FlamingoForConditionalGeneration:
    """Returns a Flamingo on GPT-2, for tests in which the family does not matter."""
    return tiny.flamingo(backbones, language="gpt2")


@pytest.fixture
def asked(monkeypatch):
    """Returns a list that grows by the number of prompts of each decoding."""
    numbers = []
    call = FlamingoEngine.generate

    def counting(self, prompts, *args, **kwargs):
        numbers.append(len(prompts))
        return call(self, prompts, *args, **kwargs)

    monkeypatch.setattr(FlamingoEngine, "generate", counting)
    return numbers
