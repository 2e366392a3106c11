"""Training on shards by the command: mixtures, kills, checks, and what a run may change when it resumes."""

import multiprocessing
import os
import signal
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from experiments.runs.run_indexing import run_indexing
from experiments.runs.run_training import run_training
from experiments.setup.streamed_data import FirstDocuments, elastic_keys
from flamingo.data.drops import NO_IMAGE, NO_TEXT, Dropped
from flamingo.history import History
from flamingo.utils.errors import UserError
from tests.data.shelf import photographs, write
from tests.data.streams.shards import write_pairs
from tests.helpers.configs import composed, problems
from tests.helpers.histories import reproducible_history
from tests.helpers.states import read_state

PAIRS = "data.documents.streamed.sources.pairs"
#: Windows of pages with more tokens than the embedded language model allows.
LONG_WINDOWS = ["data.documents.streamed.pack_to=999", "data.documents.streamed.sources.pages.documents.max_tokens=999"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Captioned images in three shards, and 14 pages in two, one of which is broken."""
    folder = tmp_path_factory.mktemp("data")
    write_pairs(folder / "pairs", 9, 5, 7)
    photographs(folder / "pages", *(f"{letter}.png" for letter in "abcdef"))
    for shard in range(2):
        rows = [page(7 * shard + number) for number in range(7)]
        write(folder / "pages" / f"{shard}.jsonl", rows)
    with (folder / "pages" / "1.jsonl").open("a") as file:
        file.write("no page\n")
    run_indexing(composed("index", f"root={folder / 'pages'}", "format=page_rows", "num_workers=1"))
    return folder


def page(number):
    images = [{"type": "image", "image": f"{'abcdef'[(number + step) % 6]}.png"} for step in range(2)]
    texts = [{"type": "text", "text": f"about {number} and {step}."} for step in range(2)]
    return {"id": f"page {number}", "content": [images[0], texts[0], images[1], texts[1]]}


def training(data, output, *overrides):
    """A mixture of pages and pairs."""
    documents = "{kind: web_document, max_tokens: 48, max_images: 2, p_next: 0.5}"
    pages = f"{{root: {data / 'pages'}, format: page_rows, documents: {documents}}}"
    return composed(
        "train",
        *("data=streamed_pairs", f"{PAIRS}.root={data / 'pairs'}", f"+data.documents.streamed.sources.pages={pages}"),
        *("data.documents.streamed.streams=2", "data.documents.streamed.group_size=4"),
        *("data.documents.streamed.pack_to=64", "data.documents.streamed.max_images=4"),
        *("training.steps=6", "training.save_every=2", "training.log_every=1", "optimizer.warmup_steps=1"),
        *("tracker=none", f"output={output}", *overrides),
    )


def kill_at(step, config, output):
    """Trains in this process, which is killed at the end of a step."""
    append = History.append

    def killed(history, record):
        append(history, record)
        if record["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    History.append = killed
    torch.set_num_threads(1)
    run_training(config, output)


def history_of_a_killed_run(make_config, folder):
    """Trains once at a stretch, and once killed at step 3 and resumed with two workers: both give the same bytes."""
    whole, killed = folder / "whole", folder / "killed"
    run_training(make_config(whole), whole)
    config = make_config(killed, "num_workers=2")
    process = multiprocessing.get_context("fork").Process(target=kill_at, args=(3, config, killed))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    run_training(config, killed)
    assert reproducible_history(killed) == reproducible_history(whole)
    weights = [output / "checkpoint" / "model.safetensors" for output in (killed, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    return reproducible_history(whole)


@pytest.mark.full
def test_a_killed_mixture_resumes_bit_for_bit_with_two_workers(data, tmp_path):
    history = history_of_a_killed_run(partial(training, data), tmp_path)
    assert any(key.startswith("dropped/broken sample: ") for key in history[-1])


@pytest.mark.full
def test_a_run_resumes_with_larger_batches_not_with_other_data(data, tmp_path):
    def stopped_at_two(*overrides):
        return training(data, tmp_path, "training.save_every=1", *overrides)

    process = multiprocessing.get_context("fork").Process(target=kill_at, args=(3, stopped_at_two(), tmp_path))
    process.start()
    process.join()
    for change in (f"{PAIRS}.weight=2", "data.documents.streamed.rows=3", "data.documents.streamed.streams=4"):
        with pytest.raises(UserError, match=change.partition("=")[0]):
            run_training(stopped_at_two(change), tmp_path)
    run_training(stopped_at_two("data.documents.streamed.batch_size=6"), tmp_path)
    assert [record["step"] for record in reproducible_history(tmp_path)] == list(range(1, 7))
    state = read_state(tmp_path, 6)
    # Two steps of four groups, then four steps of six.
    assert state["positions"] == {"streamed": 2 * 4 + 4 * 6}


@pytest.mark.full
def test_a_dry_run_shows_documents_of_the_stream(data, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    run_training(training(data, tmp_path / "run", "dry_run=true"), tmp_path / "run")
    assert caplog.text.count(", of streamed, ") == 3
    assert (tmp_path / "run.dry_run.png").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize(("position", "available"), [(0, None), (1, 3)])
def test_a_stream_without_any_document_is_an_error_with_reasons(position, available):
    """Also near the end of sources with a limited number of epochs."""

    def documents(group):
        assert group < 1000
        return [Dropped(NO_IMAGE), Dropped(NO_TEXT)]

    groups = SimpleNamespace(documents=documents, mixture=SimpleNamespace(num_groups=available))
    number = 100 if available is None else 2
    with pytest.raises(UserError, match=rf"documents\.web: .*{NO_IMAGE} \({number}\), {NO_TEXT} \({number}\)"):
        FirstDocuments("web", groups)[position]


@pytest.mark.full
@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ([f"{PAIRS}.root=nowhere"], rf"{PAIRS}: nowhere"),
        ([f"{PAIRS}.epochs=1", "data.documents.streamed.sources.pages.epochs=1"], "after .* groups.*needs 24"),
        (["data.documents.streamed.streams=99"], rf"{PAIRS}.*streams=99"),
        (LONG_WINDOWS, r"sources\.pages\.documents\.max_tokens"),
    ],
)
def test_shards_that_cannot_be_used_are_one_sentence(data, tmp_path, overrides, problem):
    config = training(data, tmp_path, *(f"++{override}" for override in overrides))
    with pytest.raises(UserError, match=problem):
        run_training(config, tmp_path)


def test_a_run_may_change_what_leaves_the_order_unchanged(tmp_path):
    config = composed("train", "data=streamed_pairs", f"{PAIRS}.root=somewhere")
    of_source = [f"{PAIRS}.{key}" for key in ("cache", "cache_gb", "timeout", "attempts")]
    assert elastic_keys(config.data) == ("data.documents.streamed.batch_size", *of_source)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        (f"{PAIRS}.format=zip", rf"{PAIRS}.*format.*zip"),
        (f"{PAIRS}.documents.kind=stories", rf"{PAIRS}.*documents.kind.*stories"),
        (f"+{PAIRS}.speed=3", rf"{PAIRS}.*speed"),
        (f"{PAIRS}.limit=0", rf"{PAIRS}.*limit"),
        ("data.documents.streamed.rows=0", r"data\.documents\.streamed.*rows"),
        ("data.documents.streamed.loss={kind:self_critical}", r"data\.documents\.streamed.*streamed.*self_critical"),
    ],
)
def test_a_wrong_value_of_a_stream_is_an_error_with_its_key(override, key):
    with pytest.raises(UserError, match=key):
        composed("train", "data=streamed_pairs", f"{PAIRS}.root=somewhere", override)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [(("root=here", "format=jsonl"), "format must be one of"), (("roof=here", "format=m4"), "root needs a value")],
)
def test_a_command_line_names_keys_of_a_stream(overrides, key):
    pages = "data.documents.streamed.sources.pages"
    found = problems("data=streamed_pages", *(f"{pages}.{override}" for override in overrides))
    assert any(problem.startswith(f"{pages}.{key}") for problem in found)


def test_a_mandatory_key_is_no_cause_of_another_problem():
    streamed = "data.documents.streamed"
    given = ("data=streamed_pages", f"{streamed}.sources.pages.root=here", f"{streamed}.sources.pages.format=m4")
    window = f"{streamed}.sources.pages.documents.max_tokens=999"
    (problem,) = problems(*given, window)
    assert problem.startswith(window)
    (problem,) = problems(*given, f"web_document@{streamed}.sources.pages.documents=obelics_m4")
    assert problem.startswith(f"{streamed}.sources.pages.documents.max_tokens=1024")
