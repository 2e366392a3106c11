"""The command that searches training data for evaluations: what is found, counted, left out and shown."""

import json
import tracemalloc
from dataclasses import dataclass

import pytest

from experiments.contamination import ContaminationConfig, check_config
from experiments.runs.run_contamination import run_contamination
from experiments.schema import DataConfig
from flamingo.utils.errors import UserError
from tests.data.readers.page_files import picture
from tests.data.shelf import write
from tests.data.streams.shards import write_shard
from tests.evaluation.contamination.drawn_pictures import drawn, file_of, resized, sentence
from tests.helpers.configs import composed

#: The drawn pictures and captions of an evaluation have numbers from here on; training data have those below.
EVALUATION = 1_000_000


def write_evaluation(folder, size):
    """Pictures with two captions each: 0.jpg, 1.jpg, ..."""
    rows = []
    folder.mkdir()
    for number in range(size):
        (folder / f"{number}.jpg").write_bytes(evaluated(number))
        captions = [sentence(EVALUATION + 2 * number), sentence(EVALUATION + 2 * number + 1)]
        rows.append({"image": f"{number}.jpg", "captions": captions})
    write(folder / "captions.jsonl", rows)
    return folder


def evaluated(number):
    return file_of(drawn(EVALUATION + number), quality=90)


def pair(key, content, caption):
    return [(f"{key}.jpg", content), (f"{key}.txt", caption.encode())]


@dataclass
class Hidden:
    """Copies of an evaluation: key of the training sample -> the picture, the caption, and what is expected."""

    pictures: dict[str, bytes]
    captions: dict[str, str]
    #: (id of the query, key of the training sample) of the pictures and of the captions.
    image_pairs: set[tuple[str, str]]
    caption_pairs: set[tuple[str, str]]


def hidden(keys):
    """Five equal files, five re-encoded, five resized pictures, and three captions, at eighteen keys."""
    copies = Hidden({}, {}, set(), set())
    for number, key in enumerate(keys[:15]):
        original = drawn(EVALUATION + number)
        contents = [
            evaluated(number),
            file_of(original, ("WEBP", "PNG")[number % 2], quality=60),
            file_of(resized(original, (0.5, 0.75, 2)[number % 3]), quality=80),
        ]
        copies.pictures[key] = contents[number // 5]
        copies.image_pairs.add((f"{number}.jpg", key))
    words = sentence(EVALUATION + 40).split()
    texts = [
        sentence(EVALUATION + 36),
        sentence(EVALUATION + 38).upper().rstrip(".") + " !",
        " ".join([*words[:4], "other", *words[5:]]),
    ]
    for number, (key, text) in enumerate(zip(keys[15:], texts, strict=True)):
        copies.captions[key] = text
        copies.caption_pairs.add((f"{18 + number}.jpg", key))
    return copies


def write_training(folder, shards, samples, copies):
    """Shards of drawn pictures, with the copies at their keys."""
    for shard in range(shards):
        members = []
        for number in range(shard * samples, (shard + 1) * samples):
            key = f"{number:06}"
            content = copies.pictures.get(key) or file_of(drawn(number), quality=80)
            members += pair(key, content, copies.captions.get(key, sentence(number)))
        write_shard(folder / f"{shard:05}.tar", members)
    return folder


def streamed(folder):
    source = "data.documents.streamed.sources.pairs"
    return ["data=streamed_pairs", f"{source}.root={folder}"]


def searched(output, data, tasks, *overrides):
    named = [f"+tasks.{name}={{query: '{folder}'}}" for name, folder in tasks.items()]
    return run_contamination(composed("contamination", *data, *named, f"output={output}", *overrides))


def pairs_of(findings):
    return {(finding["query"], copy["sample"]) for finding in findings for copy in finding["copies"]}


def check_report(task, copies):
    """Checks that all copies were found, with their kinds, and nothing else."""
    assert pairs_of(task["images"]) == copies.image_pairs
    assert pairs_of(task["captions"]) == copies.caption_pairs
    kinds = {finding["query"]: finding["kind"] for finding in task["images"]}
    assert [kinds[f"{number}.jpg"] for number in range(5)] == ["same file"] * 5
    assert {kinds[f"{number}.jpg"] for number in range(5, 15)} == {"near"}
    assert [finding["kind"] for finding in task["captions"]] == ["equal", "equal", "near"]


def test_copies_are_found_in_streamed_shards_and_nothing_else(tmp_path):
    copies = hidden([f"{2 * number + 1:06}" for number in range(18)])
    training = write_training(tmp_path / "training", 2, 20, copies)
    tasks = {"own": write_evaluation(tmp_path / "own", 22)}
    report = searched(tmp_path / "output", streamed(training), tasks)
    assert report["training"] == {"samples": 40, "images": 40, "texts": 40, "left_out": {}}
    check_report(report["tasks"]["own"], copies)
    assert report["tasks"]["own"]["counts"] == {
        "images": 22,
        "same file": 5,
        "same pixels": 0,
        "near images": 10,
        "captions": 44,
        "equal captions": 2,
        "near captions": 1,
    }
    assert json.loads((tmp_path / "output" / "contamination.json").read_text()) == report
    page = (tmp_path / "output" / "contamination.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 30 and "same file" in page


def test_each_task_has_its_own_findings_and_samples_are_counted(tmp_path, monkeypatch):
    # No picture is kept for a page that shows none.
    monkeypatch.setattr("experiments.runs.run_contamination.thumbnail", None)
    rows = [{"image": "none.jpg", "caption": "A missing picture."}]
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(file_of(drawn(number)))
        rows.append({"image": f"{number}.jpg", "caption": sentence(number)})
    (tmp_path / "4.jpg").write_bytes(b"broken")
    rows.append({"image": "4.jpg", "caption": "A broken picture."})
    write(tmp_path / "captions.jsonl", rows)
    tasks = {}
    for name, numbers in {"one": (1, 8), "none": (9,)}.items():
        folder = tmp_path / name
        folder.mkdir()
        for number in numbers:
            (folder / f"{number}.jpg").write_bytes(file_of(drawn(number)))
        write(folder / "own.jsonl", [{"image": f"{number}.jpg", "caption": "A dog."} for number in numbers])
        tasks[name] = folder
    report = searched(tmp_path / "output", [f"data.root={tmp_path / 'captions.jsonl'}"], tasks, "pictures=0")
    assert report["training"]["samples"] == 5 and report["training"]["images"] == 4
    assert report["training"]["left_out"] == {
        "image: the picture cannot be opened": 1,
        "image: the image file does not exist": 1,
    }
    assert pairs_of(report["tasks"]["one"]["images"]) == {("1.jpg", "1.jpg")}
    assert report["tasks"]["none"]["images"] == []
    # Captions of two words are not searched.
    assert report["tasks"]["one"]["short_captions"] == 2
    assert "data:image/jpeg" not in (tmp_path / "output" / "contamination.html").read_text()


def test_many_copies_are_counted_and_a_few_are_kept(tmp_path):
    members = [member for number in range(9) for member in pair(f"{number:06}", evaluated(0), "A dog.")]
    training = write_shard(tmp_path / "training" / "0.tar", members).parent
    tasks = {"own": write_evaluation(tmp_path / "own", 1)}
    first = "data.documents.streamed.sources.pairs.limit=8"
    report = searched(tmp_path / "output", [*streamed(training), first], tasks)
    assert report["training"]["samples"] == 8
    [finding] = report["tasks"]["own"]["images"]
    assert finding["num_copies"] == 8 and len(finding["copies"]) == 5


def test_images_and_sentences_of_pages_are_searched(tmp_path):
    evaluation = write_evaluation(tmp_path / "own", 2)
    text = f"A page about dogs. {sentence(EVALUATION)} It ends here."
    content = [{"type": "text", "text": text}, {"type": "image", "image": "a.jpg"}]
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.jpg").write_bytes(evaluated(1))
    (tmp_path / "pages" / "b.png").write_bytes(picture(1, "PNG"))
    write(tmp_path / "pages" / "0.jsonl", [{"id": "page", "content": content}, {"id": "broken", "contents": []}])
    source = "data.documents.streamed.sources.pages"
    data = ["data=streamed_pages", f"{source}.root={tmp_path / 'pages'}", f"{source}.format=page_rows"]
    report = searched(tmp_path / "output", data, {"own": evaluation})
    assert pairs_of(report["tasks"]["own"]["images"]) == {("1.jpg", "page")}
    assert pairs_of(report["tasks"]["own"]["captions"]) == {("0.jpg", "page")}
    assert report["training"] == {"samples": 1, "images": 1, "texts": 3, "left_out": {"page: unknown field": 1}}


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"data\.root=FOLDER"):
        check_config(ContaminationConfig(data=DataConfig(), output="out"))
    with pytest.raises(UserError, match=r"^tasks is empty"):
        check_config(composed("contamination", "data.root=somewhere"))
    with pytest.raises(UserError, match=r"^data\.root=somewhere has no effect"):
        check_config(ContaminationConfig(data=DataConfig(root="somewhere"), output="out"))
    with pytest.raises(UserError, match=r"^tasks\.own\.root is not a key"):
        ContaminationConfig(data=DataConfig(), output="out", tasks={"own": {"root": "x"}})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"tasks\.own\.query"):
        searched(tmp_path / "output", ["data.root=somewhere"], {"own": tmp_path / "empty"})


@pytest.mark.full
def test_copies_among_ten_thousand_pairs_are_found(tmp_path):
    copies = hidden([f"{550 * number + 7:06}" for number in range(18)])
    training = write_training(tmp_path / "training", 10, 1000, copies)
    tasks = {"own": write_evaluation(tmp_path / "own", 200)}
    report = searched(tmp_path / "output", streamed(training), tasks)
    assert report["training"]["samples"] == 10_000
    check_report(report["tasks"]["own"], copies)
    # Twice as many samples need the same memory: training data stream by once.
    peaks = []
    for limit in (1000, 2000):
        tracemalloc.start()
        searched(
            tmp_path / "output", [*streamed(training), f"data.documents.streamed.sources.pairs.limit={limit}"], tasks
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
