"""The page of a run: complete, self-contained, escaped, and written as a whole or not at all."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flamingo import report
from flamingo.difference_rows import save_differences
from flamingo.measure_rows import save_measures
from flamingo.report.page import write_report
from flamingo.report.page_tables import seeds_text
from flamingo.utils.errors import UserError
from flamingo.utils.names import picture_path
from tests.helpers.differences import difference
from tests.helpers.measures import measure
from tests.report import fake

VOID = {"meta", "img", "source", "link", "br", "hr"}


class Page(HTMLParser):
    """Checks that tags are balanced; collects attributes, and the text by tag."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append((self.open[-1] if self.open else "", data))

    def of(self, tag):
        return [text for found, text in self.text if found == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fake.write_run(tmp_path_factory.mktemp("run") / "demo", tasks=("synthetic_captions", "flickr8k"), queries=2)


@pytest.fixture(scope="module")
def page(run):
    assert write_report(run) == [run / "few_shot.png", run / "report.html"]
    return Page((run / "report.html").read_text())


def test_the_page_repeats_the_warnings_of_evaluations(tmp_path):
    small_run(tmp_path)
    for task, warnings in (("a", ["3 of 4 <queries>"]), ("b", []), ("c", ["1 of 2 queries"])):
        (tmp_path / f"images-{task}.json").write_text(json.dumps({"warnings": warnings, "skipped": {}}))
    write_report(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert text.count('<p class="warning">') == 2
    assert "3 of 4 &lt;queries&gt;" in text and "1 of 2 queries" in text


def small_run(folder, **rows):
    """The two files that are needed."""
    (folder / "scores.json").write_text(json.dumps(rows.get("scores", [fake.score(value=0.5)])))
    fake.write_lines(folder / "predictions.jsonl", rows.get("predictions", [fake.prediction()]))
    return folder


def test_the_page_needs_nothing_but_itself(page):
    links = [value for _, attrs in page.tags for key, value in attrs.items() if key in ("src", "srcset", "href")]
    assert links
    assert all(link.startswith("data:image/") for link in links)
    assert not {"link", "iframe"} & {tag for tag, _ in page.tags}
    assert "url(" not in "".join(page.of("style"))
    assert not re.search(r"https?:|fetch|import|innerHTML", "".join(page.of("script")))


def test_browsers_run_the_script_of_the_tables_and_no_other(page):
    [script] = page.of("script")
    assert script == (Path(report.__file__).parent / "tables.js").read_text()
    [policy] = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';") and policy.endswith(f"; script-src 'sha256-{digest}'")


def test_cells_have_the_ranks_that_the_script_sorts_by(page):
    first = [tag for tag, _ in page.tags].index("table")
    names = [tag for tag, _ in page.tags[first:]]
    width = names[: names.index("td")].count("th")
    ranks = [attrs.get("data-rank") for tag, attrs in page.tags[first:] if tag == "td"]
    shots, controls = ranks[: 12 * width : width], ranks[2 : 12 * width : width]
    assert shots == ["0", "1", "2", "3", "4", "0", "4", "1", "2", "3", "4", "4"]
    assert controls == [None] * 7 + ["0"] * 4 + ["3"]  # blind, and shuffled images after two others
    assert "data-filter" in page.tags[first][1]


def test_plots_are_there_for_light_and_dark_pages(page):
    dark = [attrs["srcset"] for tag, attrs in page.tags if tag == "source"]
    light = [attrs["src"] for tag, attrs in page.tags if tag == "img" and attrs.get("class") == "plot"]
    assert len(light) == len(dark) == 2
    decoded = [base64.b64decode(uri.split(",")[1]) for uri in light + dark]
    assert len(set(decoded)) == 4
    assert all(b"<svg" in picture for picture in decoded)


def test_pictures_are_embedded_as_they_are(run, page):
    embedded = {attrs["src"] for tag, attrs in page.tags if tag == "img"}
    paths = [path for path in (run / "pictures").rglob("*.png") if "synthetic_captions_query-000" in path.name]
    assert paths
    for path in paths:
        assert "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode() in embedded


def test_every_section_has_its_content(page):
    assert page.of("h1") == ["Few-shot results of demo"]
    assert page.of("h2") == [
        "Few-shot curves",
        "Scores",
        "Differences",
        "Queries",
        "Copying",
        "Attention",
        "Training",
        "Configuration",
    ]
    assert sum(tag == "article" for tag, _ in page.tags) == 4
    assert "4,000 steps, 16,384,000 tokens, 1 h 53 min." in " ".join(page.of("p")).replace("\n", " ")
    assert page.of("pre")[0].startswith("model:\n  every: 1\n")


def test_tables_hold_means_with_intervals_and_the_seeds(tmp_path):
    rows = [
        fake.score(shots=0, demonstrations=None, value=0.013, ci95=(0.001, 0.04)),
        fake.score(shots=4, seed=0, value=0.3, ci95=(0.2, 0.4), n=50),
        fake.score(shots=4, seed=1, value=0.5, ci95=(0.3, 0.7), n=50),
        fake.score(shots=4, metric="CIDEr", value=1.234, ci95=None, n=49),
        fake.score(shots=4, control="blind", value=0.021, ci95=(0.0, 0.05)),
    ]
    write_report(small_run(tmp_path, scores=rows), title="A <title>")
    page = Page((tmp_path / "report.html").read_text())
    assert page.of("h1") == page.of("title") == ["A <title>"]
    cells = [
        "none" if text == "\N{EN DASH}" else text for tag, text in page.text if tag in ("td", "small") and text.strip()
    ]
    assert cells == [
        *("0", "none", "greedy", "0.013", "0.001 to 0.040", "none", "200", "0"),
        *("4", "random", "greedy", "0.400", "0.250 to 0.550", "1.234", "49 to 50", "0, 1"),
        *("4", "random", "blind", "greedy", "0.021", "0.000 to 0.050", "none", "200", "0"),
    ]
    assert page.of("strong") == ["0.400"]
    summary = re.sub(r"\s+", " ", page.of("p")[0]).strip()
    assert summary == "synthetic_captions: exact match 0.400 at 4 shots (0.013 at 0)."
    assert page.of("dt") + page.of("dd") == ["0 shots", "blind", "0.013", "0.021"]


def test_marks_of_metrics_stand_with_their_scores(tmp_path):
    names = ("CLIPScore_same_encoder", "CHAIRs-PTB", "CHAIRs-PTB_order_std")
    small_run(tmp_path, scores=[fake.score(shots=8, metric=metric) for metric in names])
    save_differences(tmp_path / "differences.json", [difference("t", metric="CHAIRi-PTB")], "t")
    write_report(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    heads = ["CLIPScore same encoder", "CHAIRs-PTB, lower is better", "CHAIRs-PTB, lower is better, std over orders"]
    assert page.of("th")[4:7] == heads
    assert page.of("h3")[1] == "t: CHAIRi-PTB, lower is better"
    plot = next(attrs["src"] for tag, attrs in page.tags if tag == "img" and attrs.get("class") == "plot")
    assert b"CLIPScore same encoder" in base64.b64decode(plot.split(",")[1])


def test_table_columns_begin_with_what_all_settings_have(tmp_path):
    scores = [fake.score(shots=8, metric=metric) for metric in ("exact_match", "exact_match_distance_1")]
    scores += [fake.score(shots=k, metric=metric) for k in (0, 8) for metric in ("valid_name_rate",)]
    write_report(small_run(tmp_path, scores=[*scores, fake.score(shots=0)]))
    head = Page((tmp_path / "report.html").read_text()).of("th")
    assert head[4:7] == ["exact match", "valid name rate", "exact match distance 1"]


def test_a_table_has_at_most_five_metrics_and_their_settings(tmp_path):
    """Its rows and intervals are then narrower than a page."""
    metrics = [f"m{number}" for number in range(7)]
    scores = [fake.score(shots=8, metric=metric) for metric in metrics]
    scores += [fake.score(shots=0, metric=metric) for metric in metrics[:5]]
    write_report(small_run(tmp_path, scores=scores))
    page = Page((tmp_path / "report.html").read_text())
    heads = [text for text in page.of("th") if text.startswith("m")]
    assert heads == metrics and page.of("h3") == ["synthetic_captions"]
    assert [tag for tag, _ in page.tags].count("table") == 2
    assert [tag for tag, _ in page.tags].count("tr") == (1 + 2) + (1 + 1)


def test_the_decoding_can_break_behind_a_comma(tmp_path):
    write_report(small_run(tmp_path, scores=[fake.score(decoding="temperature0.7,top_p0.9")]))
    assert "temperature0.7, top_p0.9" in Page((tmp_path / "report.html").read_text()).of("td")


@pytest.mark.parametrize(
    ("seeds", "text"), [([3], "3"), ([1, 0], "0, 1"), ([2, 0, 1], "0 to 2"), ([0, 1, 5], "0, 1, 5"), ([5, 7], "5, 7")]
)
def test_seeds_in_a_row_are_a_range(seeds, text):
    assert seeds_text(seeds) == text


def test_what_files_say_is_escaped(tmp_path):
    evil = "<script>alert('1')</script>\"><img src=x>&amp;"
    prompt = f"<image>{evil}<|endofchunk|><image>{evil}"
    prediction = fake.prediction(evil, ["d"], prompt, evil, task=evil) | {"references": [evil]}
    small_run(tmp_path, scores=[fake.score(task=evil, metric="m" + evil, decoding=evil)], predictions=[prediction])
    (tmp_path / "config.yaml").write_text(evil)
    picture = picture_path(tmp_path / "pictures", evil, evil)
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"")
    write_report(tmp_path, title=evil)
    page = Page((tmp_path / "report.html").read_text())
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert all(attrs["src"] != "x" for tag, attrs in page.tags if tag == "img")
    for tag in ("h1", "h3", "pre", "dd", "figcaption"):
        assert evil in page.of(tag)


def test_exact_matches_are_marked_right_or_wrong(page):
    marks = [attrs.get("class") for tag, attrs in page.tags if tag == "dd"]
    assert {"right", "wrong", None} == set(marks)


def test_what_is_absent_is_said(tmp_path):
    write_report(small_run(tmp_path))
    text = (tmp_path / "report.html").read_text()
    for words in ("no differences.json", "no copy rates", "no history.jsonl", "no config.yaml", "kept no pictures"):
        assert words in text
    Page(text)


def test_equal_results_make_equal_files(run, page):
    before = [path.read_bytes() for path in (run / "few_shot.png", run / "report.html")]
    assert [path.read_bytes() for path in write_report(run)] == before
    assert before[0].startswith(b"\x89PNG")
    assert not list(run.glob("*.tmp"))


def test_differences_have_a_table_with_a_note(tmp_path):
    save_differences(small_run(tmp_path) / "differences.json", [difference("synthetic_captions")], "synthetic_captions")
    write_report(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert page.of("h3") == ["synthetic_captions", "synthetic_captions: CIDEr"]
    row = ["4 shots \N{MINUS SIGN} 0 shots", "+0.100", "0.020 to 0.210", "0.020", "real", "queries alone", "50", "0, 1"]
    assert page.of("td")[-8:] == row
    assert "not adjusted" in "".join(page.of("p"))
    save_differences(tmp_path / "differences.json", [], "synthetic_captions")
    write_report(tmp_path)
    assert "a single setting" in (tmp_path / "report.html").read_text()


def test_attention_has_a_plot_with_a_note(tmp_path):
    save_measures(small_run(tmp_path) / "in_context.json", [measure(name="gated_norm", layer=1, part=None)])
    write_report(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    plots = [attrs["alt"] for tag, attrs in page.tags if tag == "img" and attrs.get("class") == "plot"]
    assert any("last token" in name for name in plots)
    assert "attend=last" in "".join(page.of("p"))


def test_copy_rates_have_a_plot(tmp_path):
    save_measures(small_run(tmp_path) / "in_context.json", [measure("synthetic_captions")])
    write_report(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    plots = [attrs["alt"] for tag, attrs in page.tags if tag == "img" and attrs.get("class") == "plot"]
    assert len(plots) == 2 and plots[1].startswith("Copy rates")
    assert "the model repeats demonstrations" in " ".join(page.of("p"))


@pytest.mark.parametrize(
    "name", ["scores.json", "predictions.jsonl", "history.jsonl", "differences.json", "in_context.json"]
)
def test_a_malformed_file_is_named_and_nothing_is_written(tmp_path, name):
    small_run(tmp_path)
    (tmp_path / name).write_text("[{]\n")
    (tmp_path / "report.html").write_text("the last one")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / name))):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == "the last one"
    assert not (tmp_path / "few_shot.png").exists()


@pytest.mark.parametrize("name", ["scores.json", "predictions.jsonl"])
def test_a_missing_file_is_named(tmp_path, name):
    (small_run(tmp_path) / name).unlink()
    with pytest.raises(UserError, match=re.escape(name)):
        write_report(tmp_path)
