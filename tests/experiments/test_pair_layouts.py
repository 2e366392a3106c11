"""Training by the command on captioned images of img2dataset, LAION, COYO and CC3M, and on shards at URLs."""

import multiprocessing
import signal

import pytest

from experiments.runs.run_indexing import run_indexing
from experiments.runs.run_training import run_training
from tests.data.readers.img2dataset_output import ROWS, Row, jpeg, write_output
from tests.data.readers.test_caption_table import write_table
from tests.data.streams.shards import write_pairs
from tests.data.streams.stores import served
from tests.experiments.test_streamed import kill_at
from tests.helpers.configs import composed
from tests.helpers.histories import reproducible_history

pytestmark = pytest.mark.full
pytest.importorskip("pyarrow")

PAIRS = "data.documents.streamed.sources.pairs"
NO_CAPTION = "dropped/broken sample: there is no caption"
OUTPUTS = {"webdataset": "tar", "files": "img2dataset_files", "parquet": "parquet"}


def training(root, format, output, *overrides):
    return composed(
        "train",
        *("data=streamed_pairs", f"{PAIRS}.root={root}", f"{PAIRS}.format={format}"),
        *("data.documents.streamed.streams=2", "data.documents.streamed.group_size=4"),
        *("data.documents.streamed.pack_to=64", "data.documents.streamed.max_images=4"),
        *("training.steps=4", "training.save_every=2", "training.log_every=1", "optimizer.warmup_steps=1"),
        *("tracker=none", f"output={output}", *overrides),
    )


def trained(root, format, output, *overrides):
    run_training(training(root, format, output, *overrides), output)
    return reproducible_history(output)


def test_each_output_of_img2dataset_gives_the_same_steps(tmp_path):
    rows = ROWS + tuple(Row(f"https://b.com/{number}", f"number {number}", 20 + number) for number in range(7))
    histories = []
    for output, format in OUTPUTS.items():
        folder = write_output(tmp_path / output, output, rows)
        histories.append(trained(folder, format, tmp_path / "runs" / output))
    assert histories[0] == histories[1] == histories[2] and len(histories[0]) == 4
    # Two of eleven samples, of which four groups of four are a step.
    assert sum(record.get(NO_CAPTION, 0) for record in histories[0]) > 0


@pytest.mark.parametrize("layout", ["cc3m", "cc12m", "laion", "coyo"])
def test_a_table_of_pairs_is_trained_on(layout, tmp_path):
    (tmp_path / "data" / "images").mkdir(parents=True)
    for name, value in (("0.jpg", 10), ("1.jpg", 30)):
        (tmp_path / "data" / "images" / name).write_bytes(jpeg(value))
    write_table(tmp_path / "data", layout)
    run_indexing(composed("index", f"root={tmp_path / 'data'}", "format=caption_table", "num_workers=1"))
    history = trained(tmp_path / "data", "caption_table", tmp_path / "run")
    assert len(history) == 4 and not any(key.startswith("dropped/broken") for key in history[-1])


def test_a_killed_run_on_a_failing_store_equals_one_on_the_disk(tmp_path):
    """The cache holds one of three shards, and two workers share it."""
    folder = write_pairs(tmp_path / "data", 9, 5, 7)
    (folder / "list.txt").write_text("00000.tar\n00001.tar\n00002.tar\n")
    expected = trained(folder, "tar", tmp_path / "disk")
    remote = tmp_path / "remote"
    with served(folder) as server:
        server.faults = {"00000.tar": ["failing"], "00001.tar": ["cut off"], "00002.tar": ["slow"]}
        overrides = (f"{PAIRS}.cache={tmp_path / 'cache'}", f"{PAIRS}.cache_gb=3e-5", f"{PAIRS}.timeout=1.0")
        config = training(f"{server.url}/list.txt", "tar", remote, "num_workers=2", *overrides)
        process = multiprocessing.get_context("fork").Process(target=kill_at, args=(3, config, remote))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        run_training(config, remote)
    assert reproducible_history(remote) == expected
    assert server.requests.count("00000.tar") > 2
