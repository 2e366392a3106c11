"""The site of the documentation: links to files, docstrings as pages, and a build that loads nothing from a network."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

griffe = pytest.importorskip("griffe")
pytest.importorskip("mkdocs")

ROOT = Path(__file__).parent.parent
#: The attributes by which a browser loads something for a page.
_LOADED = {"img": "src", "link": "href", "script": "src", "iframe": "src"}


def hook(name):
    """Returns a module of docs/hooks/, which is no package."""
    spec = spec_from_file_location(name, ROOT / "docs" / "hooks" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Loaded(HTMLParser):
    """The addresses that a page loads."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        if address := dict(attrs).get(_LOADED.get(tag)):
            self.addresses.append(address)


@pytest.mark.parametrize(
    ("page", "link", "on_the_site"),
    [
        ("data.md", "../flamingo/data/order.py", "repository/flamingo/data/order.py.md"),
        ("data.md", "../conf/ablation#names", "repository/conf/ablation.md#names"),
        ("data.md", "../results/ablations.png", "repository/results/ablations.png"),
        ("api/data.md", "../../Makefile", "../repository/Makefile.md"),
        ("repository/CONTRIBUTING.md", "docs/extending.md#a-task", "../extending.md#a-task"),
        ("repository/CONTRIBUTING.md", "CHANGELOG.md", "CHANGELOG.md"),
        ("data.md", "training.md#resume", "training.md#resume"),
        ("data.md", "#splits", "#splits"),
        ("data.md", "https://arxiv.org/abs/2204.14198", "https://arxiv.org/abs/2204.14198"),
        ("data.md", "../no_such_file.py", "../no_such_file.py"),
    ],
)
def test_links_to_files_lead_to_pages_of_the_site(page, link, on_the_site):
    text = hook("repository_files").with_site_links(page, f"a [link]({link}) and ![one]({link})")
    assert text == f"a [link]({on_the_site}) and ![one]({on_the_site})"


CODE = '''
"""A module with :func:`count`."""

#: The kinds of :class:`Config`,
#: by name.
KINDS = {}

class Base:
    def shared(self):
        """Calls another."""

class Config(Base):
    """A config; see :meth:`shared`, :attr:`width` and :mod:`flamingo.data`."""

    #: The width, for :func:`count`.
    width: int
    height: int

    def other(self):
        """Returns :data:`KINDS` and :meth:`Base.shared`."""

def count():
    pass
'''


@pytest.fixture(scope="module")
def package():
    extensions = griffe.Extensions(hook("docstring_markup").DocstringMarkup())
    with griffe.temporary_visited_package("some", {"__init__.py": CODE}, extensions=extensions) as package:
        yield package


def test_references_in_docstrings_become_links(package):
    assert package.docstring.value == "A module with [`count`][some.count]."
    assert (
        package["Config.other"].docstring.value
        == "Returns [`KINDS`][some.KINDS] and [`Base.shared`][some.Base.shared]."
    )
    [first_line, *_] = package["Config"].docstring.lines
    # A field is described by its class, and an inherited method by the class that defines it.
    links = ("[`shared`][some.Base.shared]", "[`width`][some.Config]", "[`flamingo.data`][flamingo.data]")
    assert first_line == "A config; see {}, {} and {}.".format(*links)


def test_comments_describe_constants_and_fields(package):
    assert package["KINDS"].docstring.value == "The kinds of [`Config`][some.Config], by name."
    assert package["KINDS"].docstring.parent is package["KINDS"]
    [_, attributes] = griffe.parse_google(package["Config"].docstring)
    [width] = attributes.value
    assert width.name == "width" and str(width.annotation) == "int"
    assert width.description == "The width, for [`count`][some.count]."


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.full
def test_the_site_builds_without_a_warning(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()


@pytest.mark.full
def test_no_page_loads_anything_from_a_network(site):
    for page in site.rglob("*.html"):
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert loaded.addresses
        assert not [address for address in loaded.addresses if re.match(r"(\w+:)?//", address)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(\w+:)?//", style.read_text(encoding="utf-8")), style


@pytest.mark.full
def test_every_module_has_its_place_in_the_api_reference(site):
    pages = [page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html")]
    anchors = set(re.findall(r'id="(flamingo[\w.]*)"', "\n".join(pages)))
    for module in (ROOT / "flamingo").rglob("*.py"):
        parts = module.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        assert name in anchors or parts[-1].startswith("__main__"), name
    assert "flamingo.model.modeling.FlamingoForConditionalGeneration.forward" in anchors
    assert not [anchor for anchor in anchors if re.search(r"\._(?!_)", anchor)]
