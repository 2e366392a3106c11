"""The Python code and the links of the README and docs/ work."""

import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from experiments.runs.run_training import run_training
from experiments.setup.build import build_model
from tests import layout, tiny
from tests.helpers.configs import composed
from tests.helpers.documented_code import PAGES, ROOT, blocks
from tests.helpers.small_runs import TWO_STEPS

#: Pages with tests of their own: one has examples that add files, the other repeats the README.
_OTHERS = ("docs/extending.md", "docs/quickstart.md")
PROGRAMS = [
    (page, number, code)
    for page, text in PAGES.items()
    if page not in _OTHERS
    for number, code in enumerate(blocks(text, "python"))
]
#: The programs that run in `make test`; the others run in `make test-all`.
_QUICK = [("README.md", 0), ("docs/model.md", 1)]


def save_untrained(folder: Path, *overrides: str) -> None:
    """Saves the model of a config, untrained, as a training would save it."""
    model, processor = build_model(composed("train", *overrides).model)
    model.save_pretrained(folder, include_backbones=True)
    processor.save_pretrained(folder)


@pytest.fixture
def place(backbones, tmp_path, monkeypatch):
    """A folder with the images and checkpoints that the programs name."""
    monkeypatch.chdir(tmp_path)
    for name in ("dog", "cat"):
        Image.new("RGB", (50, 40), "brown").save(f"{name}.jpg")
    save_untrained(tmp_path / "outputs/demo/checkpoint", "experiment=demo")
    tiny.flamingo(backbones, language="opt").save_pretrained("my-flamingo", include_backbones=False)
    return tmp_path


@pytest.mark.parametrize(
    ("page", "code"),
    [
        pytest.param(page, code, id=f"{page}:{number}", marks=[] if (page, number) in _QUICK else pytest.mark.full)
        for page, number, code in PROGRAMS
    ],
)
def test_a_program_of_a_page_runs(page, code, place, backbones, monkeypatch):
    if "outputs/lora" in code:
        save_untrained(place / "outputs/lora/checkpoint", "experiment=demo", "model/adapter=lora")
    if "sys.argv" in code:
        run_training(composed("train", *TWO_STEPS, f"output={place / 'run'}"), place / "run")
        [state] = (place / "run/state").glob("step-*")
        monkeypatch.setattr(sys, "argv", ["program", str(place / "run/checkpoint"), str(state), str(place / "new")])
    folders = f"{str(backbones / 'clip_vision_model')!r}, {str(backbones / 'opt')!r}"
    code = re.sub(r"^VISION, TEXT = .*$", f"VISION, TEXT = {folders}", code, flags=re.MULTILINE)
    assert "openai/" not in code
    exec(code, {})


def test_the_quick_start_has_the_program_of_the_readme():
    assert blocks(PAGES["docs/quickstart.md"], "python") == blocks(PAGES["README.md"], "python")


def test_the_layout_page_lists_every_file_with_its_docstring():
    assert layout.PAGE.read_text(encoding="utf-8") == layout.page(), "run python -m tests.layout"


def test_links_between_its_pages_lead_somewhere():
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        for target, _, anchor in (t.partition("#") for t in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text())):
            linked = page.parent / target if target else page
            assert linked.exists(), f"{page.name}: {target}"
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE) if anchor else []
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert not anchor or anchor in anchors, f"{page.name}: {anchor}"


def test_the_tests_that_the_architectures_page_names_are_there():
    page = (ROOT / "docs/architectures.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    defined = set(re.findall(r"^def (test_\w+)", "\n".join(sources), re.MULTILINE))
    assert named and not named - defined
