"""An evaluation on several processes writes the files of one process, and ends in all processes if it fails in one."""

from dataclasses import replace
from pathlib import Path

import pytest

from flamingo import Image
from flamingo.evaluation import EvaluationConfig
from flamingo.evaluation.harness import evaluate
from flamingo.evaluation.protocol import Rank
from flamingo.evaluation.settings import Setting
from flamingo.inference.flamingo_engine import FlamingoEngine
from flamingo.utils.errors import FailedElsewhereError, UserError
from tests.evaluation.fake import SETTINGS, FakeTask, model_and_processor
from tests.helpers.forked import values_of_processes

#: One of each kind, and sampled outputs with and without demonstrations.
ALL_SETTINGS = [
    *SETTINGS,
    Setting(0, None, seed=1, temperature=1.5, top_p=0.95),
    Setting(3, "random", seed=1, template="A photo of {caption}", temperature=1.5, top_p=0.95),
]


#: Those of a task that ranks candidates.
RANKED = [setting for setting in SETTINGS if setting.num_beams == 1]
CONFIG = EvaluationConfig()


class Ranking(FakeTask):
    """Ranks answers of several lengths, with several orders of the demonstrations for each query."""

    name = "fake/ranking"

    def rank(self, query):
        candidates = ("a cat", "a dog of the grass", "colour", query.references[0])
        return Rank(candidates, "minus_prior", end=int(query.id[-1]) % 2 == 1, ensembled_orders=3)


@pytest.fixture(scope="module")
def parts(backbones):
    return model_and_processor(backbones)


def files(folder: Path) -> dict[str, bytes]:
    """Returns the content of each file of an evaluation."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def evaluated(parts, task, settings, folder, config=CONFIG, batch_size=2):
    """Evaluates in this process, which shares the work with others if there are some.

    Returns the progress, and the batches of this process by the ids of their prompts.
    """
    progress, batches = [], []

    class Noting(FlamingoEngine):
        def _continue(self, rows, *args):
            batches.append([row.id for row in rows])
            return super()._continue(rows, *args)

    engine = Noting(*parts, batch_size, is_shared=True)
    evaluate(engine, task, settings, folder, config, lambda *counts: progress.append(counts))
    return progress, batches


def test_two_processes_write_the_files_of_one(parts, tmp_path):
    settings = [Setting(0, None), Setting(3, "random", num_beams=2), Setting(3, "random", control="copied_caption")]
    first, second = values_of_processes(2, evaluated, parts, FakeTask(queries=5), settings, tmp_path / "two")
    progress, batches = evaluated(parts, FakeTask(queries=5), settings, tmp_path / "one")
    assert files(tmp_path / "two") == files(tmp_path / "one")
    # Whole batches are dealt, and each process does some.
    assert sorted(first[1] + second[1]) == sorted(batches) and len(batches) == 6 and first[1] and second[1]
    # Every process reports the progress of all, at its own pace.
    assert first[0][-1] == second[0][-1] == progress[-1] == (15, 15) and len(second[0]) < len(progress)


@pytest.mark.full
@pytest.mark.parametrize(("task", "settings"), [(FakeTask(), ALL_SETTINGS), (Ranking(queries=7), RANKED)])
def test_any_number_of_processes_writes_the_files_of_one(parts, tmp_path, task, settings):
    config = EvaluationConfig(num_orders=2)
    for size in (1, 2, 3):
        values_of_processes(size, evaluated, parts, task, settings, tmp_path / str(size), config)
    expected = files(tmp_path / "1")
    assert {"predictions.jsonl", "scores.json", "in_context.json"} <= expected.keys()
    assert files(tmp_path / "2") == files(tmp_path / "3") == expected


@pytest.mark.full
def test_a_killed_evaluation_goes_on_with_other_processes(parts, tmp_path):
    evaluated(parts, FakeTask(), ALL_SETTINGS, tmp_path / "one")
    expected = files(tmp_path / "one")
    lines = expected["predictions.jsonl"].splitlines(keepends=True)
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    (resumed / "predictions.jsonl").write_bytes(b"".join(lines[:15]) + lines[15][:20])
    values_of_processes(3, evaluated, parts, FakeTask(), ALL_SETTINGS, resumed)
    assert files(resumed) == expected


def test_a_broken_image_of_one_process_ends_all(parts, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    task = FakeTask(queries=6)
    task._queries[3] = replace(task._queries[3], image=Image(broken))

    def errors():
        try:
            evaluated(parts, task, [Setting(0, None)], tmp_path / "out", EvaluationConfig(pictures=0), 1)
        except (UserError, FailedElsewhereError) as error:
            return type(error), str(error)

    kinds, texts = zip(*values_of_processes(2, errors), strict=True)
    assert sorted(kind.__name__ for kind in kinds) == ["FailedElsewhereError", "UserError"]
    assert sum("broken.png" in text for text in texts) == 1
    assert not (tmp_path / "out" / "predictions.jsonl").exists()
