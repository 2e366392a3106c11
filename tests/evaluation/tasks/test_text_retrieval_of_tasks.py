"""Demonstrations by each similarity of captioning and VQA, the nearest last, computed by hand."""

import pytest
import torch

from flamingo.data.document import Image
from flamingo.data.records.question_record import QuestionRecord
from flamingo.data.records.record import Record
from flamingo.evaluation.demonstrations import prompt_examples
from flamingo.evaluation.preflight import check_protocols
from flamingo.evaluation.protocol import TextRetrievalTask
from flamingo.evaluation.settings import Setting
from flamingo.evaluation.tasks.captioning import Captioning
from flamingo.evaluation.tasks.classification import Classification
from flamingo.evaluation.tasks.pool import Pool
from flamingo.evaluation.tasks.vqa import Vqa
from flamingo.inference.features import FeatureStore
from flamingo.inference.vector_store import VectorStore
from flamingo.utils.errors import UserError

#: The cosines of the support's images with the query's, around the mean of zero, and the orthogonal parts. p4 is the
#: query's picture.
COSINES = {"p0": (0.8, 0.6), "p1": (0.6, -0.8), "p2": (-0.6, 0.8), "p3": (-0.8, -0.6), "p4": (1.0, 0.0)}
POOL = list(COSINES)


class Features(FeatureStore):
    def __init__(self):
        pass

    def pooled(self, images):
        rows = []
        for image in images:
            name = str(image.frames[0]).removesuffix(".jpg")
            rows.append([*COSINES.get(name, (1.0, 0.0)), 0.0] if name != "p5" else [-1.0, 0.0, 0.0])
        return torch.tensor(rows)


class Vectors(VectorStore):
    """Unit vectors whose first number is in the text after the last space; the query's image is the first axis."""

    def __init__(self):
        pass

    def add_images(self, images):
        return 0

    def add_texts(self, texts):
        list(texts)
        return 0

    def images(self, images):
        return torch.tensor([[1.0, 0.0] for _ in images])

    def texts(self, texts):
        cosines = torch.tensor([float(text.rpartition(" ")[2]) for text in texts])
        return torch.stack([cosines, (1 - cosines**2).sqrt()], dim=1)


def captioning():
    #: Mean cosines with the query's image: 0.1, 0.3, 0.5, 0.4, 0.9, 0.0.
    captions = [("a 0.2", "a 0.0"), ("a 0.3",), ("a 0.0", "a 1.0"), ("a 0.4",), ("a 0.9",), ("a 0.0",)]
    pool = []
    for number, texts in enumerate(captions):
        pool.append(Record(f"p{number}", Image(f"p{number}.jpg"), texts, None))
    return Captioning("photos", [Record("q", Image("q.jpg"), ("q",), None)], Pool(pool, duplicates={}))


def question(id, text):
    return QuestionRecord(id, Image(f"{id}.jpg"), ("yes",) * 10, None, text, None, None, ("question_id", id))


def vqa():
    texts = ["a 0.1", "a 0.3", "a 0.5", "a 0.4", "a 0.9", "a 0.0"]
    pool = [question(f"p{number}", text) for number, text in enumerate(texts)]
    return Vqa("questions", [question("q", "a 1.0")], Pool(pool))


def shown(task, name, shots=3):
    return [example.id for example in prompt_examples(task, task.queries()[0], Setting(shots, name))]


#: By the sum, standardized: images 0.8, 0.6, -0.6, -0.8, (1, -1) and texts 0.1, 0.3, 0.5, 0.4, (0.9, 0). The deviations
#: are 0.816 and 0.293, and the means 0 and 0.367, so that the sums are 0.07, 0.51, -0.28, -0.87 and, of p5, -2.48.
@pytest.mark.parametrize(
    ("name", "nearest_last"),
    [("rices", ["p2", "p1", "p0"]), ("text", ["p1", "p3", "p2"]), ("rices_sum", ["p2", "p0", "p1"])],
)
@pytest.mark.parametrize(("make", "text"), [(captioning, "rices_caption"), (vqa, "rices_question")])
def test_each_similarity_has_its_demonstrations(make, text, name, nearest_last):
    task = make()
    assert isinstance(task, TextRetrievalTask)
    task.index(Features(), 3)
    task.index_texts({text.removeprefix("rices_"): 3, "sum": 5}, Features(), Vectors())
    name = text if name == "text" else name
    assert shown(task, name) == nearest_last
    assert shown(task, name, 1) == nearest_last[-1:]
    if name == "rices_sum":
        assert shown(task, name, 5) == ["p5", "p3", *nearest_last]


def test_questions_are_compared_without_a_dual_encoder():
    pytest.importorskip("sklearn")
    texts = ["what color is it", "how many dogs", "what color is the dog", "why", "what color is the cat", "where"]
    pool = [question(f"p{number}", text) for number, text in enumerate(texts)]
    task = Vqa("questions", [question("q", "what color is the cat")], Pool(pool))
    task.index(Features(), 0)
    task.index_texts({"question": 2}, Features(), None)
    assert shown(task, "rices_question", 2) == ["p0", "p2"]  # p4 shows the query's image


def test_other_data_sets_have_their_own_candidates():
    own = captioning()
    pool = [Record("p2", Image("p2.jpg"), ("a 0.1",), None), Record("p3", Image("p3.jpg"), ("a 0.2",), None)]
    pool.append(Record("p1", Image("p1.jpg"), ("a 0.0",), None))
    task = Captioning("photos", own.query_records, own.pool, {"coco": Pool(pool, "coco")})
    task.index(Features(), 0)
    task.index_texts({"caption": 2}, Features(), Vectors())
    setting = Setting(2, "rices_caption", support="coco")
    assert [one.id for one in prompt_examples(task, task.queries()[0], setting)] == ["coco/p2", "coco/p3"]
    assert shown(task, "rices_caption", 2) == ["p3", "p2"]


def test_similarities_that_a_task_does_not_have_are_refused():
    for task, name in ((captioning(), "rices_question"), (vqa(), "rices_caption")):
        with pytest.raises(UserError, match=rf"{name}.*rices, .*rices_sum"):
            check_protocols(task, [Setting(1, name)])
    labelled = Classification("classes", [], Pool([]))
    with pytest.raises(UserError, match=r"rices_sum.*rices$"):
        check_protocols(labelled, [Setting(1, "rices_sum")])
    with pytest.raises(UserError, match="rices_encoder"):
        captioning().index_texts({"caption": 1}, Features(), None)


def test_candidates_are_searched_first():
    task = vqa()
    with pytest.raises(UserError, match="similar by question"):
        shown(task, "rices_question")
    task.index(Features(), 0)
    task.index_texts({"question": 2}, Features(), Vectors())
    with pytest.raises(UserError, match=r"q has 2.*3"):
        shown(task, "rices_question", 3)
    with pytest.raises(UserError, match=r"5 candidates.*6"):
        task.index_texts({"question": 6}, Features(), Vectors())
