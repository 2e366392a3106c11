"""The worked examples of docs/extending.md: a copy of the repository gets their files and runs their commands."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
#: A block of code: its language; for a file its path, and "at the end" if the block is the end of an existing file.
BLOCK = re.compile(r'^```(\w+)(?: title="([^",]+)(, at the end)?")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
EXAMPLES = dict(re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
COPIED = ("flamingo", "experiments", "conf", "tests", "setup.cfg")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "outputs", ".*")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


#: What runs in `make test`; the other examples run in `make test-all`.
QUICK = ("A reader",)
CASES = [pytest.param(example, marks=[] if example in QUICK else pytest.mark.full) for example in EXAMPLES]


@pytest.mark.parametrize("example", CASES)
def test_the_example_works(copy: Path, example: str):
    commands = []
    for language, name, append, code in BLOCK.findall(EXAMPLES[example]):
        if language == "sh":
            commands += code.splitlines()
            continue
        path = copy / name
        assert path.exists() == bool(append), f"{name} exists already, or there is none to append to"
        text = f"{path.read_text(encoding='utf-8')}\n\n" if append else ""
        path.write_text(text + code, encoding="utf-8")
    assert commands
    for command in commands:
        environment = os.environ | {"PYTHONPATH": str(copy), "HF_HUB_OFFLINE": "1"}
        arguments = shlex.split(command.replace("python", sys.executable, 1))
        result = subprocess.run(arguments, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
