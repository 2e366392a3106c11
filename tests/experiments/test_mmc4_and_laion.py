"""A mixture of MMC4's pages and LAION's pairs, as their own tools write them, is killed and resumed."""

from functools import partial

import pytest

from experiments.runs.run_indexing import run_indexing
from tests.data.readers.img2dataset_output import ROWS, Row, write_output
from tests.data.readers.page_files import converted, mmc4_document, picture, write_openflamingo
from tests.experiments.test_streamed import history_of_a_killed_run
from tests.helpers.configs import composed

pytestmark = pytest.mark.full
pytest.importorskip("pyarrow")

STREAMED = "data.documents.streamed"
NAMES = ["aa.jpg", "bb.jpg"]
BROKEN = "dropped/broken sample: there is no caption"
NOT_SIMILAR = "dropped/image not similar to a text"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two shards of OpenFlamingo with seven pages each, and an output of img2dataset with thirteen pairs."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "pages").mkdir()
    for value, name in enumerate(NAMES):
        (folder / name).write_bytes(picture(50 * value))
    for shard in range(2):
        documents = [converted(document(7 * shard + number), folder) for number in range(7)]
        write_openflamingo(folder / "pages" / f"{shard:09d}.tar", documents)
    pairs = ROWS + tuple(Row(f"https://b.com/{number}", f"number {number}", 20 + number) for number in range(9))
    write_output(folder / "pairs", "webdataset", pairs)
    run_indexing(composed("index", f"root={folder / 'pages'}", "format=openflamingo_tar", "num_workers=1"))
    return folder


def document(number):
    """A page of three sentences; the second image of every third page is similar to none."""
    last = 0.1 if number % 3 == 0 else 0.4
    texts = [f"page {number} begins.", "a sentence.", "the end."]
    return mmc4_document(texts, NAMES, [[0.1, 0.3, 0.2], [0.0, 0.05, last]])


def training(data, output, *overrides):
    sources = f"{STREAMED}.sources"
    pages = f"{{root: {data / 'pages'}, format: openflamingo_tar}}"
    return composed(
        "train",
        *("data=streamed_pairs", f"{sources}.pairs.root={data / 'pairs'}", f"+{sources}.pages={pages}"),
        f"+web_document@{sources}.pages.documents=mmc4_openflamingo",
        *(f"{sources}.pages.documents.max_tokens=48", f"{sources}.pages.documents.min_image_bytes=0"),
        *(f"{STREAMED}.streams=2", f"{STREAMED}.group_size=4", f"{STREAMED}.pack_to=64", f"{STREAMED}.max_images=6"),
        *("training.steps=6", "training.save_every=2", "training.log_every=1", "optimizer.warmup_steps=1"),
        *("tracker=none", f"output={output}", *overrides),
    )


def test_a_killed_mixture_resumes_bit_for_bit(data, tmp_path):
    history = history_of_a_killed_run(partial(training, data), tmp_path)
    # Samples of both sources were drawn.
    assert history[-1][NOT_SIMILAR] > 0 and history[-1][BROKEN] > 0
