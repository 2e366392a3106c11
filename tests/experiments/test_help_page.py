"""--help explains every key with its value and choices, and imports nothing heavy."""

import re
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
from omegaconf import MISSING, OmegaConf

from experiments.cli.command import COMMANDS, CONF
from experiments.cli.help_page import GROUP_LINES, choices_of, help_page, shown
from experiments.cli.hydra_config import help_of
from flamingo.model.fusion import CrossAttentionConfig
from flamingo.utils.checks import one_of
from flamingo.utils.errors import UserError
from tests.helpers.configs import CONFIGS

HEAVY = ("torch", "transformers", "accelerate", "wandb", "matplotlib")


def rows(page):
    """The rows of a page by section: key -> value and explanation."""
    found, section = {}, ""
    for line in page.splitlines():
        if heading := re.match(r"([\w.@]+)(, by \S+=NAME)?: ", line):
            section = f"{heading[1]}."
        elif line and not line.startswith(" "):
            section = ""
        elif row := re.match(r"  ([\w/@.]+)=(.*?)(?:\s{2,}(.*))?$", line):
            found[section + row[1]] = (row[2].strip(), row[3] or "")
    return found


@pytest.mark.parametrize("mistake", [[], ["nonsense=1"]], ids=["help", "mistake"])
def test_help_and_a_mistake_import_nothing_heavy(mistake):
    """Of every command, in a new process."""
    program = (
        "import importlib, sys\n"
        f"for name in {list(CONFIGS)}:\n"
        f"    sys.argv = [name, *({mistake} or ['--help'])]\n"
        "    try: importlib.import_module(f'experiments.{name}').main()\n"
        "    except SystemExit as end: assert end.code == 2\n"
        f"print(sorted(set({HEAVY}) & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=CONF.parent)
    assert run.stdout.endswith("[]\n"), run.stderr
    assert run.stderr.count("nonsense is not a key") == (len(CONFIGS) if mistake else 0)


def test_a_command_of_a_process_of_its_own_imports_nothing_heavy():
    program = [sys.executable, "-X", "importtime", "-m", "experiments.train", "--help"]
    run = subprocess.run(program, capture_output=True, text=True, check=True, cwd=CONF.parent)
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "Updates of the weights" in run.stdout
    assert "hydra" in imported and not set(HEAVY) & imported


@pytest.mark.parametrize("name", CONFIGS)
def test_help_lines_fit_and_explain_every_key_of_a_dataclass(name):
    page = help_of(COMMANDS[name])
    for line in page.splitlines():
        assert len(line) <= 120 or re.fullmatch(r"  \S+=\S+", line), line
    lines = page.splitlines()
    for number, line in enumerate(lines):
        key_alone = re.fullmatch(r"  (\S+)=\S*", line)
        if key_alone and not name.startswith("pretrain"):  # `model` has fields of transformers
            assert lines[number + 1].startswith(" " * 36), line


def test_keys_have_their_values_lines_and_choices():
    page = help_of(COMMANDS["train"], ["experiment=demo", "training.steps=77", "model.fusion.gate=none"])
    found = rows(page)
    assert found["training.steps"] == ("77", "Updates of the weights")
    assert found["training.seed"][0] == "${seed}" and found["device"][0] == "null"
    assert found["model.fusion.gate"][0] == "none" and "scalar" in found["model.fusion.gate"][1]
    assert found["data.documents.captions.kind"][0] == "synthetic_captions"
    assert found["data.documents.captions.loss.kind"][0] == "next_token"
    assert (
        found["experiment"][0] == "demo" and "captions" in page.partition("Chosen by name")[2].partition("General")[0]
    )
    assert "[constant | cosine]" in found["optimizer.schedule"][1]
    assert "model.connector.kind" not in found, "the group chooses it"


def test_keys_that_are_left_open_are_marked():
    page = help_of(COMMANDS["train"], ["experiment=captions", "training.precision=bf16"])
    found = rows(page)
    assert found["training.steps"][0] == found["data.documents.pairs.batch_size"][0] == "(chosen)"
    assert found["training.precision"][0] == "bf16" and "[auto | float32" in found["dtype"][1]
    assert "[" not in found["left_open"][1]
    assert "\n(chosen): " in page and "(chosen)" not in help_of(COMMANDS["report"])


def test_help_of_a_wrong_key_names_it():
    with pytest.raises(UserError, match=r"trainig\.steps.*training\.steps"):
        help_of(COMMANDS["train"], ["trainig.steps=77"])


def test_every_group_has_a_line():
    groups = {path.parent.relative_to(CONF).as_posix() for path in CONF.glob("**/*.yaml")} - {"."}
    assert groups == GROUP_LINES.keys()


@dataclass
class Colours:
    """Things with colours."""

    #: Needed.
    size: int = MISSING
    #: The colour.
    colour: str = "red"
    #: Colours, of which there may be none.
    others: list[str] = field(default_factory=list)
    #: Any text.
    text: str | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError("size")
        one_of("colour", self.colour, ("red", "green"))
        for other in self.others:
            one_of("others", other, ("blue",))


def test_choices_are_those_that_the_dataclass_lists_in_its_error():
    config = OmegaConf.structured(Colours)
    choices = {name: choices_of(Colours, config, name, "") for name in ("size", "colour", "others", "text")}
    assert choices == {"size": [], "colour": ["red", "green"], "others": ["blue"], "text": []}
    fusion = OmegaConf.structured(CrossAttentionConfig)
    assert choices_of(CrossAttentionConfig, fusion, "attend", "model.fusion") == ["last", "previous"]
    assert choices_of(CrossAttentionConfig, fusion, "kind", "model.fusion") == ["cross_attention", "prefix"]


def test_a_page_has_a_row_for_each_key_and_says_what_is_needed():
    page = help_page(OmegaConf.structured(Colours), "Header", {}, sweeps=False)
    assert page.startswith("Header\n\nGeneral\n  size=???                          Needed\n")
    assert "  colour=red                        The colour [red | green]\n" in page
    assert "-m" not in page


def test_values_are_shown_as_they_are_written():
    config = OmegaConf.create({"a": [1, None, {"b": True}], "c": "${a}", "d": 0.5, "e": "two words"})
    written = ["[1,null,{b:true}]", "${a}", "0.5", "'two words'"]
    assert [shown(config._get_node(name)) for name in "acde"] == written


def test_a_mapping_with_keys_of_others_is_explained_as_a_whole():
    page = help_of(COMMANDS["train"], ["model/adapter=lora"])
    assert "\nmodel.adapter.settings: Fields of the method's config in peft" in page
    assert "\n  r=8\n" in page
