"""Invented runs: variants, means, intervals and differences against values computed by hand."""

import csv
import json
import math

import numpy as np
import pytest
import yaml

from experiments.report import ReportConfig
from experiments.runs.run_report import run_report
from flamingo.difference_rows import read_differences
from flamingo.report.comparison import compare
from flamingo.report.comparison_files import COLUMNS, write_comparison
from flamingo.report.variants import read_runs, read_variants, runs_below
from flamingo.utils.errors import UserError
from tests.report.fake import prediction, score, write_lines


def written(folders, output, baseline=None):
    """The files of a comparison without paired differences."""
    variants, problems = read_variants(folders, baseline)
    return write_comparison(variants, problems, [], output)


def write_run(folder, seed, value, variant=None, paper=None, scores=None, **model):
    folder.mkdir(parents=True)
    config = {"output": str(folder), "seed": seed, "training": {"steps": 20, "seed": seed}, "model": model}
    config["variant"] = {"name": variant, "paper": paper}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "checkpoint").mkdir()
    rows = scores or [score(value=value, seed=0), score(value=value + 0.1, seed=1), score(value=0.9, control="blind")]
    (folder / "scores.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture
def folders(tmp_path):
    """Two variants with two seeds; evaluated with two seeds each, whose mean is 0.05 more than the value."""
    return [
        write_run(tmp_path / "a0", 0, 0.55, every=1),
        write_run(tmp_path / "a1", 1, 0.65, every=1),
        write_run(tmp_path / "b0", 0, 0.25, every=2),
        write_run(tmp_path / "b1", 1, 0.45, every=2),
    ]


def test_seeds_are_runs_that_differ_in_nothing_else(folders):
    variants, problems = read_runs(folders)
    assert [(v.name, [run.seed for run in v.runs]) for v in variants] == [
        ("model.every=1", [0, 1]),
        ("model.every=2", [0, 1]),
    ]
    assert problems == {}


def test_means_intervals_and_differences_by_hand(folders):
    one, other = compare(read_runs(folders)[0], "model.every=1")
    assert (one.task, one.shots, one.metric, one.values) == (
        "synthetic_captions",
        4,
        "exact_match",
        pytest.approx((0.6, 0.7)),
    )
    # Squares 2 * 0.05 ** 2 and 2 * 0.1 ** 2, of 2 degrees of freedom.
    spread = math.sqrt((0.005 + 0.02) / 2)
    assert one.mean == pytest.approx(0.65)
    half = 4.3027 * spread / math.sqrt(2)
    assert one.interval == pytest.approx((0.65 - half, 0.65 + half), abs=1e-4)
    assert (one.difference, one.difference_interval) == (None, None)
    assert other.difference == pytest.approx(-0.25)
    assert other.difference_interval == pytest.approx((-0.25 - 4.3027 * spread, -0.25 + 4.3027 * spread), abs=1e-4)


def test_an_evaluation_in_a_folder_of_its_own_is_a_variant(folders, tmp_path):
    """It has no config. Its name is that of its folder, or the path where another folder has the same name."""
    for name in ("x/idefics", "y/idefics", "z/beam3"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "scores.json").write_text(json.dumps([score(value=0.4), score(value=0.9, control="blind")]))
    variants, problems = read_runs([folders[0], tmp_path / "x/idefics", folders[1], tmp_path / "y/idefics"])
    names = [folders[0].name, str(tmp_path / "x/idefics"), str(tmp_path / "y/idefics")]
    assert [variant.name for variant in variants] == ["all runs alike", *names[1:]] and problems == {}
    variants, _ = read_runs([folders[0], folders[2], tmp_path / "z/beam3"])
    assert [variant.name for variant in variants] == ["model.every=1", "model.every=2", "beam3"]
    [run] = variants[2].runs
    assert run.scores == {("synthetic_captions", 4, "exact_match"): 0.4}
    assert [(mean.setting.control, mean.value) for mean in run.means] == [(None, 0.4), ("blind", 0.9)]


def test_one_seed_has_no_interval(folders):
    rows = compare(read_runs([folders[0], folders[2]])[0], "model.every=2")
    assert [row.interval for row in rows] == [None, None]
    assert rows[0].difference == pytest.approx(0.3) and rows[0].difference_interval is None


def test_failed_missing_and_incomplete_runs_have_their_reasons(folders, tmp_path):
    (folders[3] / "failure.txt").write_text("FloatingPointError: the loss of step 3 is not finite\n")
    stopped = write_run(tmp_path / "stopped", 0, 0.1, every=3)
    (stopped / "checkpoint").rmdir()
    record = {"step": 10, "loss": 1.0, "gates": {}}
    (stopped / "history.jsonl").write_text(json.dumps(record) + "\n")
    untested = write_run(tmp_path / "untested", 0, 0.1, every=4)
    (untested / "scores.json").unlink()
    twin = write_run(tmp_path / "twin", 0, 0.1, every=1)
    more = write_run(tmp_path / "more", 1, 0, every=5, scores=[score(value=0.5), score(value=0.5, metric="CIDEr")])
    (tmp_path / "features").mkdir()
    damaged = write_run(tmp_path / "damaged", 0, 0.1, every=6)
    (damaged / "config.yaml").write_text("model: {every")
    _, problems = read_runs([*folders, stopped, untested, twin, more, tmp_path / "features", damaged])
    assert str(damaged / "config.yaml") in problems.pop(str(damaged))
    assert problems == {
        str(folders[3]): "failed: FloatingPointError: the loss of step 3 is not finite",
        str(stopped): "not finished: 10 of 20 steps",
        str(untested): "not evaluated: there is no scores.json",
        str(twin): f"left out: the same config and seed as {folders[0]}",
        str(tmp_path / "features"): "no run: there is no config.yaml",
        **{
            str(folder): "incomplete: lacks 1 of 2 scores, among them CIDEr of synthetic_captions at 4 shots"
            for folder in folders[:3]
        },
        "model.every=2": "missing: seed 1, which other variants have",
        "model.every=5": "missing: seed 0, which other variants have",
    }


def test_the_files_say_the_same_and_name_what_is_missing(tmp_path):
    folders = [
        write_run(tmp_path / f"{name}{seed}", seed, value + seed / 10, name, paper, gate=name)
        for name, paper, value in (("no <gate>", 66.5, 0.2), ("baseline", 70.7, 0.6))
        for seed in (0, 1)
    ]
    (folders[1] / "failure.txt").write_text("ValueError: no & <such> file\n")
    paths = written(folders, tmp_path / "new" / "comparison")
    kinds = ("md", "csv", "html", "png", "differences.json", "settings.html")
    assert [path.name for path in paths] == [f"comparison.{kind}" for kind in kinds]
    assert json.loads(paths[4].read_text()) == []
    assert paths[3].read_bytes().startswith(b"\x89PNG")
    with paths[1].open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[: len(COLUMNS)] == list(COLUMNS)
    assert [(row["variant"], row["mean"], row["seeds"], row["paper"], row["difference"]) for row in rows] == [
        ("baseline", "0.7", "2", "70.7", ""),
        ("no <gate>", "0.25", "1", "66.5", "-0.45"),
    ]
    low, high = (float(rows[0][key]) for key in ("ci_low", "ci_high"))
    assert (low + high) / 2 == pytest.approx(0.7) and high - low == pytest.approx(2 * 12.706 * 0.05, abs=1e-2)
    markdown, page = paths[0].read_text(), paths[2].read_text()
    overview = next(line for line in markdown.splitlines() if line.startswith("| no &lt;gate&gt; |"))
    cells = overview.strip("| ").split(" | ")
    assert [cells[0], *(cell.split(" (")[0] for cell in cells[1:])] == [
        "no &lt;gate&gt;",
        "0.250",
        "-0.450",
        "66.5",
        "-4.2",
    ]
    assert f"- `{folders[1]}`: failed: ValueError: no &amp; &lt;such&gt; file" in markdown
    assert "no &lt;gate&gt;" in page and "ValueError: no &amp; &lt;such&gt; file" in page
    assert "<such>" not in page


def test_a_name_cannot_write_into_the_tables_nor_be_a_formula(tmp_path):
    for variant in ("a | 99.9 |\n| b", "`c` <img src=x>", "=HYPERLINK(1)", "-1", "+d"):
        write_run(tmp_path / str(len(list(tmp_path.iterdir()))), 0, 0.5, variant, every=variant)
    markdown, table, *_ = written(sorted(tmp_path.iterdir()), tmp_path / "comparison")
    assert "<img" not in markdown.read_text() and "| a \\| 99.9 \\| \\| b | 0.550 |" in markdown.read_text()
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"][:2] for row in rows] == ["a ", "`c", "'=", "'-", "'+"]
    assert [row["difference"] for row in rows] == ["", "0.0", "0.0", "0.0", "0.0"]


@pytest.mark.parametrize("below", ["", "model.vision-/data/clip+seed-0", "deep/er"])
def test_runs_are_found_however_deep_a_sweep_has_nested_them(below, tmp_path):
    one, other = (write_run(tmp_path / "sweep" / f"run{i}" / below, i, 0.5) for i in (0, 1))
    (one / "checkpoint" / "config.yaml").write_text("")  # below a run there is none
    (tmp_path / "sweep" / "notes").mkdir()
    found = [folder for entry in sorted((tmp_path / "sweep").iterdir()) for folder in runs_below(entry)]
    assert found == [tmp_path / "sweep" / "notes", one, other]
    [markdown, *_] = run_report(ReportConfig(runs=f"{tmp_path}/sweep/*"))
    assert "# 1 variant, 2 runs" in markdown.read_text() and markdown.parent == tmp_path / "sweep"


def test_figures_of_the_paper_are_shown_for_its_variants_alone(tmp_path):
    def overview(name, *papers):
        folders = []
        for number, paper in enumerate(papers):
            folder = tmp_path / name / str(number)
            folders.append(
                write_run(folder, 0, 0.2 + number / 10, "baseline" if not number else "mine", paper, every=number)
            )
        text = written(folders, tmp_path / name / "comparison")[0].read_text()
        return [line for line in text.splitlines() if line.startswith("|")][:4]

    head, _, _, own = overview("own", 70.7, None)
    assert "paper" not in head and own == "| mine | 0.350 | +0.100 |"
    head, _, baseline, other = overview("paper", 70.7, 66.5)
    assert head.endswith("| paper × 100 | difference |")  # noqa: RUF001
    assert baseline.endswith("| 70.7 |  |") and other == "| mine | 0.350 | +0.100 | 66.5 | -4.2 |"


def test_each_seed_stands_in_the_table_of_a_score(folders, tmp_path):
    text = written(folders, tmp_path / "comparison")[0].read_text()
    cells = text.splitlines()[-6].strip("| ").split(" | ")
    assert [cells[0], *cells[-2:]] == ["model.every=1", "0.600, 0.700", "0, 1"]


def test_an_overview_has_three_tasks_at_most(tmp_path):
    scores = [score(value=0.5, task=f"task{number}") for number in range(4)]
    text = written([write_run(tmp_path / "a", 0, 0.5, scores=scores)], tmp_path / "c")[0].read_text()
    heads = [line for line in text.splitlines() if line.startswith("| variant | task")]
    assert [head.count("task") for head in heads] == [3, 1]


def test_runs_of_a_sweep_are_named_by_the_overrides_that_differ(tmp_path):
    folders = []
    for connector in ("perceiver", "mlp"):
        for seed in (0, 1):
            folder = write_run(tmp_path / f"{connector}{seed}", seed, 0.5, connector=connector, width=len(connector))
            overrides = ["experiment=demo", f"seed={seed}", f"model/connector={connector}", f"output={folder}"]
            (folder / "overrides.yaml").write_text(yaml.safe_dump(overrides))
            folders.append(folder)
    assert [variant.name for variant in read_runs(folders)[0]] == ["model/connector=perceiver", "model/connector=mlp"]
    # One without overrides of its own is told apart by its config.
    for seed in (0, 1):
        (tmp_path / f"mlp{seed}" / "overrides.yaml").write_text("[experiment=demo]")
    assert read_runs(folders)[0][1].name == "model.connector=mlp, model.width=3"
    # A single one is named by its folder.
    assert [variant.name for variant in read_runs(folders[1:3])[0]] == ["model/connector=perceiver", "mlp0"]


def test_a_variant_with_a_name_keeps_it_beside_one_without(tmp_path):
    folders = [write_run(tmp_path / "a", 0, 0.5, "baseline", 70.7, every=1), write_run(tmp_path / "b", 0, 0.5, every=2)]
    names = [variant.name for variant in read_runs(folders)[0]]
    assert names == ["baseline", "model.every=2"]


def test_a_missing_baseline_and_no_runs_are_refused(folders, tmp_path):
    with pytest.raises(UserError, match=r"'every=3'.*model\.every=1.*model\.every=2"):
        written(folders, tmp_path / "comparison", "every=3")
    with pytest.raises(UserError, match="nowhere"):
        written([tmp_path / "nowhere"], tmp_path / "comparison")
    assert not list(tmp_path.glob("comparison.*"))


def predictions(seed, gain):
    rng = np.random.default_rng(7)
    values = rng.random(60) + gain * rng.random(60) + 0.01 * seed
    rows = []
    for query, value in enumerate(values):
        rows.append(prediction(f"q{query}", seed=0) | {"scores": {"exact_match": float(value)}})
    return rows


def test_paired_differences_stand_in_all_files(tmp_path):
    for variant, gain in (("baseline", 0.0), ("no <gate>", 0.4)):
        for seed in (0, 1):
            rows = predictions(seed, gain)
            value = float(np.mean([row["scores"]["exact_match"] for row in rows]))
            folder = tmp_path / "runs" / f"{variant[:2]}{seed}"
            write_run(folder, seed, 0, variant, scores=[score(value=value)], gate=variant)
            write_lines(folder / "predictions.jsonl", rows)
    write_run(tmp_path / "runs" / "third", 0, 0.9, "third", gate="third", scores=[score(value=0.9)])
    paths = run_report(ReportConfig(runs=f"{tmp_path}/runs/*"))
    [row] = read_differences(paths[4])
    assert (row.variant, row.baseline, row.level, row.seeds) == ("no <gate>", "baseline", "trainings", (0, 1))
    assert row.value == pytest.approx(0.2, abs=0.05) and row.mark == "real" and row.metric == "exact_match"
    markdown, page = paths[0].read_text(), paths[2].read_text()
    assert "## Paired differences to baseline" in markdown and "Paired differences to baseline" in page
    cells = f"| no &lt;gate&gt; \N{MINUS SIGN} baseline at 4 shots | {row.value:+.3f} |"
    assert cells in markdown and "| real | queries, trainings | 60 | 0, 1 |" in markdown
    assert "no &lt;gate&gt; \N{MINUS SIGN} baseline at 4 shots" in page and "not adjusted" in page
    missing = "not in the paired differences: there is no predictions.jsonl"
    assert f"`{tmp_path}/runs/third`: {missing}" in markdown
    (tmp_path / "runs" / "ba0" / "predictions.jsonl").unlink()
    (tmp_path / "runs" / "ba1" / "predictions.jsonl").unlink()
    paths = run_report(ReportConfig(runs=f"{tmp_path}/runs/*"))
    assert read_differences(paths[4]) == [] and "Paired" not in paths[0].read_text()
    assert f"`{tmp_path}/runs/ba1`: {missing}" in paths[0].read_text()


def test_runs_with_other_queries_are_refused_before_writing(tmp_path):
    for variant in ("baseline", "other"):
        rows = predictions(0, 0.0)
        if variant == "other":
            rows[5]["query"] = "another"
        folder = write_run(tmp_path / "runs" / variant, 0, 0.5, variant, gate=variant, scores=[score(value=0.5)])
        write_lines(folder / "predictions.jsonl", rows)
    with pytest.raises(UserError, match="'q5'"):
        run_report(ReportConfig(runs=f"{tmp_path}/runs/*"))
    assert not list((tmp_path / "runs").glob("comparison*"))
