"""What the README and docs/ show runs as it stands there."""

import re
from pathlib import Path

import pytest
from PIL import Image

from experiments.setup.build import build_model
from tests import layout, tiny
from tests.helpers.configs import composed

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README + (ROOT / "docs/model.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=["captions", "configurations", "pretrained", "large", "prefix"])
def test_its_code_runs(snippet, backbones, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("dog", "cat"):
        Image.new("RGB", (50, 40), "brown").save(f"{name}.jpg")
    model, processor = build_model(composed("train", "experiment=demo").model)
    model.save_pretrained(tmp_path / "trained", include_backbones=True)
    processor.save_pretrained(tmp_path / "trained")
    tiny.flamingo(backbones, language="opt").save_pretrained("my-flamingo", include_backbones=False)
    here = {
        "CHECKPOINT": '"trained"',
        "VISION, TEXT": f"{str(backbones / 'clip_vision_model')!r}, {str(backbones / 'opt')!r}",
    }
    for names, values in here.items():
        snippet = re.sub(rf"^{names} = .*$", f"{names} = {values}", snippet, flags=re.MULTILINE)
    assert "outputs/" not in snippet and "openai/" not in snippet
    exec(snippet, {})


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
