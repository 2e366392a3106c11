"""Demonstrations and controls depend only on the seed, the query and the candidates."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest

from flamingo import FlamingoProcessor, Image
from flamingo.evaluation.controls import shuffled_captions, shuffled_images
from flamingo.evaluation.demonstrations import sample_demonstrations
from flamingo.evaluation.prompts import build_prompt, render_prompt
from flamingo.evaluation.protocol import Example, Task
from flamingo.utils.errors import UserError
from tests.evaluation.fake import FakeTask, example


def ids(examples):
    return [e.id for e in examples]


def test_a_task_is_recognised_by_what_it_has():
    assert isinstance(FakeTask(), Task)
    assert not isinstance(object(), Task)


def test_demonstrations_depend_on_seed_and_query_alone():
    task = FakeTask()
    forth = {q.id: sample_demonstrations(task, q, 4, seed=7) for q in task.queries()}
    back = {q.id: sample_demonstrations(FakeTask(), q, 4, seed=7) for q in reversed(task.queries()[1:4])}
    assert all(forth[query] == back[query] for query in back)
    # A value from another run: hash() and global generators would give another one.
    assert ids(forth["query/0"]) == ["support/6", "support/5", "support/1", "support/2"]
    assert len({tuple(ids(d)) for d in forth.values()}) == 6  # and each query has its own
    assert ids(sample_demonstrations(task, task.queries()[0], 4, seed=8)) != ids(forth["query/0"])


def test_fewer_demonstrations_are_a_subset_with_equal_captions():
    task = FakeTask()
    for query in task.queries():
        few, more, all_ = (sample_demonstrations(task, query, shots, seed=0) for shots in (2, 5, 12))
        assert all(e in more for e in few) and all(e in all_ for e in more)
        assert sorted(ids(all_)) == sorted(e.id for e in task.support(query)[0])


def test_candidates_and_their_captions_are_equally_likely():
    task = FakeTask()
    places, captions = Counter(), Counter()
    for seed in range(600):
        first, second = sample_demonstrations(task, task.queries()[0], 2, seed)
        places[first.id] += 1
        places[second.id] += 1
        captions[first.references[0].startswith("the ")] += 1
        assert len(first.references) == 1
    assert len(places) == 12 and all(65 < n < 140 for n in places.values())  # 100 each
    assert 240 < captions[True] < 360


class Billion(Sequence):
    """A group of examples that are made when they are asked for."""

    def __init__(self):
        self.made = []

    def __len__(self):
        return 10**9

    def __getitem__(self, place):
        self.made.append(place)
        return Example(f"support/{place}", Image("one.jpg"), (f"caption {place}",))


def test_the_cost_follows_the_demonstrations_not_the_support():
    group = Billion()
    task = FakeTask()
    task._support = [group]
    for query in task.queries():
        group.made.clear()
        chosen = sample_demonstrations(task, query, 32, seed=0)
        assert len(set(ids(chosen))) == 32
        assert all(e in chosen for e in sample_demonstrations(task, query, 5, seed=0))
        shuffled_captions(task, query, chosen, seed=0)
        assert len(group.made) < 100  # 32 + 5 + 32, and those that the checks of types look at


@pytest.mark.parametrize("number", [1, 2, 5])
def test_all_orders_of_candidates_are_equally_likely(number):
    task = FakeTask()
    task._support = [[example("support", i) for i in range(number)]]
    drawn = Counter()
    for seed in range(600):
        [query, *_] = task.queries()
        prefixes = [sample_demonstrations(task, query, shots, seed) for shots in range(1, number + 1)]
        sets = [set(ids(prefix)) for prefix in prefixes]
        assert all(few < more for few, more in pairwise(sets))
        # In the order in which they join.
        first, *_ = sets
        drawn[(*first, *(min(more - few) for few, more in pairwise(sets)))] += 1
    permutations = math.factorial(number)
    assert len(drawn) > 0.98 * permutations
    expected = 600 / permutations
    assert max(drawn.values()) < expected + 6 * expected**0.5


def test_groups_are_shown_equally_often_and_mixed():
    task = FakeTask(groups=3)
    group = {e.id: i for i, own in enumerate(task.support(task.queries()[0])) for e in own}
    sequences = {
        tuple(group[e.id] for e in sample_demonstrations(task, q, 6, s)) for q in task.queries() for s in range(9)
    }
    assert all(Counter(sequence) == {0: 2, 1: 2, 2: 2} for sequence in sequences)
    assert len(sequences) > 20


@pytest.mark.parametrize(("groups", "shots", "message"), [(3, 4, r"4 shots.*3 groups"), (1, 13, "has 12 exam")])
def test_shots_that_the_groups_cannot_give_are_refused(groups, shots, message):
    task = FakeTask(groups)
    with pytest.raises(UserError, match=message):
        sample_demonstrations(task, task.queries()[0], shots, seed=0)


def test_orders_are_of_the_same_demonstrations():
    task = FakeTask()
    query = task.queries()[0]
    orders = [sample_demonstrations(task, query, 5, seed=0, order=i) for i in range(8)]
    assert len({tuple(ids(o)) for o in orders}) > 5
    for order in orders:
        assert sorted(ids(order)) == sorted(ids(orders[0]))
        assert all(e in orders[0] for e in order)  # with the same captions


def test_shuffled_images_are_a_uniform_permutation():
    query, shown = example("query", 0), [example("support", i, references=1) for i in range(3)]
    seen = Counter()
    for seed in range(600):
        shuffled = shuffled_images(FakeTask(), query, shown, seed)
        assert [(e.id, e.references) for e in shuffled] == [(e.id, e.references) for e in shown]
        seen[tuple([e.image for e in shown].index(e.image) for e in shuffled)] += 1
    assert len(seen) == 6 and all(60 < n < 145 for n in seen.values())
    assert shuffled_images(FakeTask(), query, shown, 3) == shuffled_images(FakeTask(), query, shown, 3)


def test_shuffled_captions_come_from_others_and_keep_the_images():
    class OwnSupport(FakeTask):
        def support(self, query):
            return [[example(f"of {query.id}", i) for i in range(5)]]

    task = OwnSupport()
    query = task.queries()[2]
    shown = sample_demonstrations(task, query, 4, seed=0)
    sources = Counter()
    for seed in range(60):
        shuffled = shuffled_captions(task, query, shown, seed)
        assert [(e.id, e.image) for e in shuffled] == [(e.id, e.image) for e in shown]
        sources.update(e.references[0].split()[-2] for e in shuffled if " of " in e.references[0])
    assert sources.keys() == {f"query/{i}" for i in (0, 1, 3, 4, 5)}  # over the whole task, never its own
    assert shuffled_captions(task, query, shown, 5) == shuffled_captions(OwnSupport(), query, shown, 5)


def test_shuffled_captions_are_of_no_example_in_the_prompt():
    task = FakeTask()
    query = task.queries()[0]
    for seed in range(30):
        shown = sample_demonstrations(task, query, 8, seed)
        numbers = {e.id.split("/")[1] for e in shown}
        captions = [e.references[0] for e in shuffled_captions(task, query, shown, seed)]
        assert not numbers & {caption.split()[-1] for caption in captions if "support" in caption}
    with pytest.raises(UserError, match="query/0"):
        shuffled_captions(task, query, sample_demonstrations(task, query, 12, 0), 0)


def test_the_prompt_is_what_the_processor_writes(backbones):
    processor = FlamingoProcessor.from_vision_text_pretrained(backbones / "clip_vision_model", backbones / "gpt2")
    shown = [example("support", i, references=1) for i in range(2)]
    query = Example("q", example("query", 1).image, ("red",), prompt="Question: what colour? Answer:")
    with_images = (
        "<image>Output: a dog of support 0<|endofchunk|><image>Output: a cat of support 1<|endofchunk|>"
        "<image>Question: what colour? Answer:"
    )
    text_only = with_images.replace("<image>Output", "Output")
    for images, text in ((True, with_images), (False, text_only)):
        prompt = build_prompt(query, shown, images)
        assert render_prompt(prompt) == text
        encoded = processor.encode(prompt, prompt=True)
        assert processor.tokenizer.decode(encoded.input_ids) == "<s>" + text
        assert len(encoded.pixel_values) == (3 if images else 1)
        # The query sees its own picture; demonstrations without theirs see none.
        assert encoded.image_index[-1] == (2 if images else 0)
        assert (encoded.image_index[1:20] == (0 if images else -1)).all()
    assert render_prompt(build_prompt(query, [])) == "<image>Question: what colour? Answer:"
    assert isinstance(build_prompt(query, shown).parts[0], Image)
