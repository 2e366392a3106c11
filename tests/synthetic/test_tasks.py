"""Tasks of the synthetic benchmark: queries of the evaluation split, supports that belong to them, scores."""

import re
from dataclasses import replace

import pytest
from PIL import Image as PILImage

from flamingo import synthetic
from flamingo.data.caption_template import CaptionTemplate
from flamingo.evaluation.controls import described, shuffled_captions
from flamingo.evaluation.demonstrations import sample_demonstrations
from flamingo.evaluation.metrics.cider import CiderReward
from flamingo.evaluation.metrics.vqa import vqa_accuracy
from flamingo.evaluation.prompts import build_prompt, render_prompt
from flamingo.evaluation.protocol import CaptionTask, DescribedTask, RankingTask, Task
from flamingo.synthetic import tasks
from flamingo.synthetic.documents import caption_turns, question_turns, show, stream
from flamingo.synthetic.grammar import attribute_accuracy, caption, parse, random_dialect
from flamingo.synthetic.scenes import SHAPES, Kind, Scene, split_of
from flamingo.synthetic.tasks import (
    CANDIDATES,
    SyntheticBinding,
    SyntheticCaptions,
    SyntheticQuestions,
    SyntheticShapes,
)
from flamingo.utils.errors import UserError
from flamingo.utils.kinds import class_of, load_kind

TASKS = [
    SyntheticCaptions(4),
    SyntheticBinding(4),
    SyntheticBinding(2, num_ways=5),
    SyntheticQuestions(4),
    SyntheticShapes(4),
]


@pytest.fixture(params=TASKS, ids=lambda task: task.name)
def task(request):
    return request.param


def members(task, query):
    return [example for group in task.support(query) for example in group]


def test_tasks_are_tasks_under_the_names_of_the_score_files(task):
    assert isinstance(task, Task)
    assert [t.name for t in TASKS] == [
        "synthetic_captions",
        "synthetic_binding_2way",
        "synthetic_binding_5way",
        "synthetic_questions",
        "synthetic_shapes",
    ]
    assert [t.text_only for t in TASKS] == [True, False, False, True, True]
    assert SyntheticCaptions.corpus_metrics == ("CIDEr", "BLEU-1", "BLEU-4")
    assert SyntheticBinding.corpus_metrics == SyntheticQuestions.corpus_metrics == ()


def test_an_episode_depends_on_its_index_alone(task):
    *_, last = task.episodes.values()
    alone = replace(task).episode(*stream(task.stream_name, task.num_queries - 1))
    assert alone == last and alone is not last
    first, second, *_ = task.queries()
    assert first.image != second.image and task.support(first)[0][0].image != task.support(second)[0][0].image


def test_ids_are_unique_and_no_query_is_in_its_support(task):
    ids = [e.id for query in task.queries() for e in (query, *members(task, query))]
    assert len(set(ids)) == len(ids)
    assert len(task.queries()) == task.num_queries
    for query in task.queries():
        assert query.image not in [example.image for example in members(task, query)]
        assert {len(group) for group in task.support(query)} == {8 if "binding" in task.name else CANDIDATES}


@pytest.fixture
def scene_of(monkeypatch):
    """Which scene an example shows; for tasks that are made in the test."""
    scenes = {}

    def draw(scene):
        picture = PILImage.new("RGB", (1, 1))
        scenes[id(picture)] = (scene, picture)  # which keeps the id its own
        return picture

    monkeypatch.setattr(tasks, "draw", draw)
    return lambda example: scenes[id(example.image.frames[0])][0]


@pytest.mark.parametrize("kind", [SyntheticCaptions, SyntheticQuestions, SyntheticShapes])
def test_queries_and_demonstrations_are_of_the_evaluation_split(kind, scene_of):
    task = kind(8)
    for query in task.queries():
        assert scene_of(query) == task.episodes[query.id].scene
        assert {scene_of(example).split for example in (query, *members(task, query))} == {"evaluation"}
    if kind is SyntheticCaptions:
        dialects = {episode.dialect for episode in task.episodes.values()}
        assert len(dialects) == 8 and {dialect.split for dialect in dialects} == {"evaluation"}


@pytest.mark.parametrize("ways", [2, 5])
def test_a_name_fits_its_images_and_the_query_its_group(ways, scene_of):
    task, bound = SyntheticBinding(6, ways), set()
    for query in task.queries():
        kinds = {g[0].references: [scene_of(example).kinds[0] for example in g] for g in task.support(query)}
        values = {a: {name: {getattr(k, a) for k in own} for name, own in kinds.items()} for a in ("shape", "colour")}
        (attribute,) = (a for a, of in values.items() if all(len(own) == 1 for own in of.values()))
        assert len(set.union(*values[attribute].values())) == ways
        assert values[attribute][query.references] == {getattr(scene_of(query).kinds[0], attribute)}
        assert split_of("name", query.references[0]) == "evaluation"
        bound.add(attribute)
    assert bound == {"shape", "colour"}


@pytest.mark.parametrize("task", [TASKS[0], TASKS[3]], ids=lambda task: task.name)
def test_described_prompts_have_the_form_of_training_documents(task):
    rng, _ = stream(task.stream_name, 1)
    if task is TASKS[0]:
        turns = caption_turns(rng, "evaluation", 1 + CANDIDATES, random_dialect(rng, "evaluation"))
    else:
        turns = question_turns(rng, "evaluation", 1 + CANDIDATES)
    query = task.queries()[1]
    [support] = task.support(query)
    shown = described(task, query, [support[4], support[0]], seed=0)
    document = show([turns[5], turns[1], turns[0]], num_text_turns=2)
    template = CaptionTemplate()
    assert render_prompt(build_prompt(query, shown)) + turns[0].texts(template)[1] == render_prompt(document)


@pytest.mark.parametrize("ways", [2, 5])
def test_the_words_of_a_name_are_its_keyword(ways, scene_of):
    task = SyntheticBinding(4, ways)
    assert isinstance(task, DescribedTask)
    for query in task.queries():
        words = set()
        for group in task.support(query):
            [word] = {task.description(query, example) for example in group}
            words.add(word)
            kinds = [scene_of(example).kinds[0] for example in group]
            assert all(word in (kind.shape, kind.colour) for kind in kinds)
        assert len(words) == ways


def test_captions_are_compared_with_frequencies_of_an_episode():
    assert [isinstance(task, CaptionTask) for task in TASKS] == [True, False, False, False, False]
    task = TASKS[0]
    for query in task.queries():
        captions = [example.references[0] for example in task.support(query)[0]]
        expected = CiderReward([[caption] for caption in captions])
        assert task.cider(query)(captions[:2], [captions[2:4]] * 2) == expected(captions[:2], [captions[2:4]] * 2)


def scene_said(text):
    """A scene of which a caption is true; what it does not mention is made up."""
    said = parse(text)
    kinds = [
        Kind(said[f"{i}.shape"], said.get(f"{i}.colour", "red"), said.get(f"{i}.size", "small"))
        for i in range(1 + ("axis" in said))
    ]
    return Scene(tuple(kinds), said.get("axis"), said.get("count", 2), 0)


def test_the_dialect_of_a_query_is_that_of_its_support():
    task = TASKS[0]
    for query in task.queries():
        episode = task.episodes[query.id]
        assert query.references == (caption(episode.scene, episode.dialect),) and query.prompt is None
        for example in members(task, query):
            (text,) = example.references
            assert text == caption(scene_said(text), episode.dialect)


def test_captions_are_scored_by_words_and_by_what_they_say():
    task = TASKS[0]
    for query in task.queries():
        episode, right = task.episodes[query.id], query.references[0]
        assert task.score(query, [], right) == {"exact_match": 1.0, "attribute_accuracy": 1.0}
        # The plain words say all that the dialect mentions, and more, in another way.
        assert task.score(query, [], caption(episode.scene)) == {"exact_match": 0.0, "attribute_accuracy": 1.0}
        assert task.score(query, [], "a dog runs") == {"exact_match": 0.0, "attribute_accuracy": 0.0}
        half = " ".join(right.split()[: len(right.split()) // 2])
        share = attribute_accuracy(episode.scene, episode.dialect, half)
        assert 0 <= share < 1 and task.score(query, [], half) == {"exact_match": 0.0, "attribute_accuracy": share}


def test_a_name_has_a_group_that_says_nothing_else():
    asked = set()
    for task in TASKS[1:3]:
        for query in task.queries():
            said = [{example.references for example in group} for group in task.support(query)]
            assert len(said) == task.num_ways and all(len(references) == 1 for references in said)
            names = [references.pop() for references in said]
            assert len(set(names)) == task.num_ways and query.references in names
            assert all(re.fullmatch("[^aeiou ][aeiou] [^aeiou ][aeiou]", name) for (name,) in names)
            asked.add(names.index(query.references))
    assert len(asked) > 1  # not always the first


def test_shots_are_shared_among_the_names():
    for task, shots in ((TASKS[1], 8), (TASKS[2], 20)):
        query = task.queries()[0]
        shown = [example.references for example in sample_demonstrations(task, query, shots, seed=0)]
        assert {shown.count(name) for name in shown} == {4} and len(set(shown)) == task.num_ways


def test_a_match_counts_valid_names_only_if_there_is_one():
    task = TASKS[1]
    query = task.queries()[0]
    (right,) = query.references
    shown = sample_demonstrations(task, query, 8, seed=0)
    (other,) = {e.references[0] for e in shown} - {right}
    valid = {"valid_name_rate": 1.0}

    def scores(output, shown):
        return {k: v for k, v in task.score(query, shown, output).items() if not k.startswith("exact_match_distance")}

    assert scores(right, shown) == {"exact_match": 1.0, "exact_match_of_valid": 1.0} | valid
    assert scores(other, shown) == {"exact_match": 0.0, "exact_match_of_valid": 0.0} | valid
    for invalid in ("Bo Bo", right.split()[0], right + ".", ""):
        assert scores(invalid, shown) == {"exact_match": 0.0, "valid_name_rate": 0.0}
    # Without demonstrations no name is known, and with those of other queries only theirs.
    assert scores(right, []) == {"exact_match": 1.0, "valid_name_rate": 0.0}
    foreign = shuffled_captions(task, query, shown, seed=0)
    assert task.score(query, foreign, right)["valid_name_rate"] == 0.0
    assert task.score(query, foreign, foreign[0].references[0])["valid_name_rate"] == 1.0


def test_matches_are_grouped_by_distance_to_the_right_name():
    task = TASKS[2]
    query = task.queries()[0]
    (right,) = query.references
    shown = sample_demonstrations(task, query, 20, seed=0)
    others = [e for e in shown if e.references[0] != right]
    (example, *_) = (e for e in shown if e.references[0] == right)

    def distances(prompt, output=right):
        return {k: v for k, v in task.score(query, prompt, output).items() if "distance" in k}

    assert distances([*others, example]) == {"exact_match_distance_1": 1.0}
    assert distances([example, *others[:2]], "something else") == {"exact_match_distance_3": 0.0}
    assert distances([example, *others[:2], example]) == {"exact_match_distance_1": 1.0}
    assert distances([example, *others[:4]]) == distances([example, *others]) == {"exact_match_distance_5": 1.0}
    assert distances(others) == {}


def test_questions_are_asked_in_the_prompt_and_match_exactly():
    task = TASKS[3]
    for query in task.queries():
        assert re.fullmatch(r"Question: .+\? Answer:", query.prompt)
        (answer,) = query.references
        assert " " not in answer
        assert task.score(query, [], answer) == {"exact_match": 1.0}
        assert task.score(query, [], answer + " one") == task.score(query, [], "") == {"exact_match": 0.0}
    assert len({e.prompt for e in members(task, task.queries()[0])}) > 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "synthetic_captions", "num_queries": 0}, r"^task\.num_queries .*0"),
        ({"kind": "synthetic_binding", "num_queries": 0, "num_ways": 2}, r"^task\.num_queries .*0"),
        ({"kind": "synthetic_binding", "num_queries": 1, "num_ways": 1}, r"^task\.num_ways .*1"),
        ({"kind": "synthetic_binding", "num_queries": 1, "num_ways": 9}, r"^task\.num_ways .*9"),
        ({"kind": "synthetic_binding", "num_queries": 1}, r"^task\.num_ways "),
        ({"kind": "synthetic_captions", "num_queries": 1, "num_ways": 2}, r"^task\.num_ways "),
    ],
)
def test_configs_of_tasks_that_cannot_be_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        load_kind(synthetic.TASKS, values, "task")


def test_a_config_makes_its_task():
    values = {"kind": "synthetic_binding", "num_queries": 3, "num_ways": 5}
    config = load_kind(synthetic.TASKS, values, "task")
    assert class_of(synthetic.TASKS, config.kind).from_config(config) == SyntheticBinding(3, num_ways=5)
    config = load_kind(synthetic.TASKS, {"kind": "synthetic_questions", "num_queries": 3}, "task")
    assert class_of(synthetic.TASKS, config.kind).from_config(config) == SyntheticQuestions(3)


def test_shapes_are_ranked_among_all_shapes():
    task = SyntheticShapes(6)
    assert isinstance(task, RankingTask)
    assert len({query.references for query in task.queries()}) > 2
    for query in task.queries():
        assert task.rank(query).candidates == SHAPES and task.rank(query).end
        assert {example.references[0] for example in (query, *members(task, query))} <= set(SHAPES)
        assert query.prompt.startswith("Question: what shape is ")


def test_exact_match_is_vqa_accuracy_of_equal_answers():
    task = SyntheticQuestions(4)
    for query in task.queries():
        [answer] = query.references
        for output in (answer, f"{answer} {answer}", ""):
            exact_match = task.score(query, [], output)["exact_match"]
            assert exact_match == vqa_accuracy(output, [answer] * 10) == float(output == answer)
