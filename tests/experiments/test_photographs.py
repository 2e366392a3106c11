"""A user's captioned images in all commands: features, training, evaluation, report."""

import io
import json
import shutil
import tarfile
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from experiments.cli.extra_arguments import given_values
from experiments.cli.hydra_config import compose_config, load
from experiments.runs.run_evaluation import check_outputs, run_evaluation
from experiments.runs.run_training import run_training
from experiments.schema import ALL_TASKS
from experiments.setup.default_task import default_task
from experiments.setup.evaluation_plan import plan
from flamingo.inference import FeaturesConfig
from flamingo.report.page import write_report
from flamingo.utils.errors import UserError
from tests.experiments.conftest import photograph, shard
from tests.experiments.first_words import FirstWordsConfig
from tests.helpers.configs import composed
from tests.helpers.small_runs import photograph_overrides, photograph_training


def by_reward(run, shards, backbones, output, *overrides):
    """The training that continues from ``run``."""
    return composed(
        "train",
        *("experiment=flickr8k_reward", "debug=quick", *photograph_overrides(shards, backbones, output)),
        *(
            "data.documents.pairs.batch_size=3",
            "data.documents.pairs.num_crops=2",
            "data.documents.interleaved.batch_size=2",
        ),
        *("data.documents.interleaved.min_images=3", "data.documents.interleaved.max_images=3"),
        "data.documents.interleaved.num_crops=2",
        *(f"model.init_from={run / 'checkpoint'}", f"features.folder={run / 'features'}"),
        *overrides,
    )


def evaluation(shards, *overrides):
    return composed(
        "evaluate",
        *(
            "task=flickr8k",
            f"task.support={shards}/train-*.tar",
            f"task.query={shards}/dev-*.tar",
            "max_new_tokens=4",
        ),
        "task.metrics=[CIDEr,BLEU-1]",
        *("shots=[0,2]", "num_beams=[2]", "control_shots=null", "batch_size=4"),
        *overrides,
    )


@pytest.fixture(scope="module")
def run(shards, backbones, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "photographs"
    run_training(photograph_training(shards, backbones, output), output)
    run_evaluation(evaluation(shards, f"run={output}"))
    write_report(output)
    return output


def test_all_settings_are_scored(run):
    rows = json.loads((run / "scores.json").read_text())
    settings = {(row["shots"], row["demonstrations"], row["control"]) for row in rows if row["metric"] == "CIDEr"}
    controls = ("blind", "shuffled_images", "shuffled_captions", "copied_caption")
    # The consensus needs 3 demonstrations, and the nearest of retrieved ones is the copied caption.
    assert settings == {
        (0, None, None),
        (0, "text_only", None),
        *((2, kind, control) for kind in ("random", "rices") for control in (None, *controls)),
        (2, "random", "nearest_caption"),
    }
    assert {row["task"] for row in rows} == {"flickr8k"}
    assert (run / "report.html").stat().st_size > 0
    assert len(list((run / "pictures" / "flickr8k").iterdir())) > 4


def test_a_run_is_evaluated_on_its_own_data_by_default(run, tmp_path, caplog):
    caplog.set_level("INFO")
    given = (f"run={run}", f"output={tmp_path}", f"features.folder={run / 'features'}", "task.name=own", "limit=2")
    given += ("task.metrics=[CIDEr]", "num_beams=[1]", "max_new_tokens=2")
    run_evaluation(load(compose_config("evaluate", [*given, *default_task(given_values(given))])))
    predictions = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert {row["query"] for row in predictions} == {"0100", "0101"}
    assert {id for row in predictions for id in row["demonstration_ids"]} <= {f"{number:04}" for number in range(14)}
    plain = {row["shots"] for row in predictions if row["control"] is None}
    most = max(plain)
    assert plain == {shots for shots in (0, 1, 2, 4, 8) if shots <= most} and most > 1
    assert {row["shots"] for row in predictions if row["control"] is not None} == {most}
    assert most >= 4
    controls = "blind, shuffled_images, shuffled_captions, copied_caption, nearest_caption, consensus_caption"
    assert f"controls at {most} shots: {controls}; 22 predictions, about " in caplog.text
    first, last = caplog.text.index("shots  demonstrations"), caplog.text.index("compared ")
    table = caplog.text[first:last].splitlines()
    assert sum(" to " in line for line in table) == 2 * len(plain) + 11  # text only is at 0 shots, too


def test_duplicates_are_reported_and_not_shown(run):
    found = json.loads((run / "images-flickr8k.json").read_text())["near_duplicates"]
    assert [(pair["query"], pair["image"]) for pair in found["support"]] == [("0103", "0003")]
    assert found["training"] == found["support"]
    assert found["queries"] == []
    for line in (run / "predictions.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["query"] != "0103" or "0003" not in row["demonstration_ids"]


@pytest.mark.full
def test_queries_are_no_duplicates_of_themselves(run, shards, tmp_path):
    there = ("run=null", f"checkpoint={run / 'checkpoint'}", f"output={tmp_path}", "shots=[2]", "control_shots=[]")
    run_evaluation(evaluation(shards, *there, f"task.query={shards}/train-*.tar"))
    found = json.loads((tmp_path / "images-flickr8k.json").read_text())["near_duplicates"]
    assert found.keys() == {"support", "queries"}
    assert all(pair["query"] != pair["image"] for pairs in found.values() for pair in pairs)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * 14
    assert all(row["query"] not in row["demonstration_ids"] for row in rows)


@pytest.mark.full
def test_without_features_captions_and_losses_are_the_same(run, shards, backbones, tmp_path):
    output = tmp_path / "pixels"
    kept = tmp_path / "kept"
    # In bf16 the last digits, which depend on what is encoded together, would tip some roundings.
    anyone = ("data.documents.interleaved.similar_prob=0", "training.precision=fp32", "dtype=float32")
    run_training(photograph_training(shards, backbones, output, "features.folder=null", *anyone), output)
    run_training(photograph_training(shards, backbones, kept, *anyone), kept)
    losses = [
        [json.loads(line)["loss"] for line in (folder / "history.jsonl").read_text().splitlines()]
        for folder in (output, kept)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert not (output / "features").exists()
    plain = (f"run={kept}", "demonstrations=[random]", "controls=[]")
    run_evaluation(evaluation(shards, *plain))
    run_evaluation(evaluation(shards, *plain, f"output={output}", "features.folder=null"))
    rows = [
        [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        for folder in (output, kept)
    ]
    # Without features the fourth query's duplicate is not known for one, and may be shown.
    captions = [[row["output"] for row in own if row["query"] != "0103"] for own in rows]
    assert len(captions[0]) == 3 * 3
    assert captions[0] == captions[1]


@pytest.mark.full
def test_a_trained_model_goes_on_by_reward(run, shards, backbones, tmp_path, monkeypatch):
    """By a reward that any two captions differ in: no caption of this small model has a CIDEr above 0."""

    def longer(outputs, references):
        return [len(output) + number / 1000 for number, output in enumerate(outputs)]

    monkeypatch.setattr("experiments.setup.build_data.CiderReward", lambda captions, language: longer)
    run_training(by_reward(run, shards, backbones, tmp_path), tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert len(losses) == 4 and all(loss < 0 for loss in losses)
    before, after = (load_file(folder / "checkpoint" / "model.safetensors") for folder in (run, tmp_path))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} == {"connector", "fusion", "new_tokens"}


@pytest.mark.full
def test_equal_rewards_change_no_weight(run, shards, backbones, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "experiments.setup.build_data.CiderReward", lambda captions, language: lambda outputs, _: [0.0] * len(outputs)
    )
    run_training(by_reward(run, shards, backbones, tmp_path), tmp_path)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert losses == [0.0] * 4
    before, after = (load_file(folder / "checkpoint" / "model.safetensors") for folder in (run, tmp_path))
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.full
def test_impossible_training_by_reward_is_refused_beforehand(run, shards, backbones, tmp_path):
    def error(*overrides):
        with pytest.raises(UserError) as caught:
            output = tmp_path / str(len(list(tmp_path.iterdir())))
            run_training(by_reward(run, shards, backbones, output, *overrides), output)
        return str(caught.value)

    # Before minutes go into features.
    wrong = ("data.documents.pairs.loss.kind=bleu", f"features.folder={tmp_path / 'features'}")
    assert "data.documents.pairs.loss.kind must be one of next_token, self_critical; got 'bleu'" in error(*wrong)
    assert not (tmp_path / "features").exists()
    for setting in ("captions_per_image=1", "pack_to=64", "p_next=0.5"):
        assert f"data.documents.pairs.{setting.replace('=', ' is ')}" in error(f"data.documents.pairs.{setting}")
    assert f"model.init_from: there is no checkpoint in {tmp_path}" in error(f"model.init_from={tmp_path}")
    assert error(f"model.language={backbones / 'opt'}").startswith("model.language: ")
    assert error("model.connector.num_latents=3").startswith("model.connector.num_latents=3 ")


def test_queries_that_were_trained_on_are_a_warning(run, shards, tmp_path, caplog):
    own = (f"run={run}", f"output={tmp_path}", f"features.folder={run / 'features'}", "shots=[0]", "controls=[]")
    own += ("text_only=false", "limit=1", "num_beams=[1]", "max_new_tokens=1", f"task.query={shards}/train-*.tar")
    run_evaluation(evaluation(shards, *own))
    said = "flickr8k: 14 of 14 queries show images that the run was trained on"
    assert said in caplog.text
    [warning] = json.loads((tmp_path / "images-flickr8k.json").read_text())["warnings"]
    assert warning.startswith(said)
    assert json.loads((run / "images-flickr8k.json").read_text())["warnings"] == []


@pytest.mark.full
def test_a_checkpoint_is_evaluated_on_shards_without_its_run(run, shards, tmp_path):
    there = ("run=null", f"checkpoint={run / 'checkpoint'}", f"output={tmp_path}")
    run_evaluation(evaluation(shards, *there))
    assert (tmp_path / "scores.json").read_text() == (run / "scores.json").read_text()


def test_another_task_of_images_needs_the_protocol_alone(run, shards, tmp_path, monkeypatch):
    """With checksums, features, retrieval and left-out records, like captioning."""
    monkeypatch.setitem(ALL_TASKS, "first_words", (FirstWordsConfig, "tests.experiments.first_words:FirstWords"))
    task = FirstWordsConfig(query=f"{shards}/dev-*.tar", support=f"{shards}/train-*.tar")
    config = evaluation(shards, f"run={run}", f"output={tmp_path}", "demonstrations=[rices]", "controls=[]")
    config = replace(config, task=task)
    run_evaluation(config)
    recorded = yaml.safe_load((tmp_path / "evaluate-first_words.yaml").read_text())
    assert recorded["contents"]["query"].keys() == {"captions", "files"}
    assert recorded["contents"]["support"] != recorded["contents"]["query"]
    looked = json.loads((tmp_path / "images-first_words.json").read_text())
    assert list(looked["skipped"].values()) == ["it is the first"]
    assert looked["near_duplicates"] == {"training": [{"query": "none", "image": "14"}]}
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    retrieved = [row["demonstration_ids"] for row in rows if row["demonstrations"] == "rices"]
    assert len(rows) == 2 * len(retrieved) == 8
    assert all(len(set(ids)) == 2 and not set(ids) & looked["skipped"].keys() for ids in retrieved)
    assert (tmp_path / "features" / "keys.txt").exists()
    with pytest.raises(UserError, match=r"rices.*features\.folder"):
        run_evaluation(replace(config, features=FeaturesConfig(folder=None)))


def test_broken_images_in_shards_are_left_out_and_named(shards, backbones, run, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    shard(folder / "train-000000.tar", range(1, 5))
    with tarfile.open(folder / "train-000001.tar", "w") as file:
        for name, content in (("0009.png", b"no picture"), ("0009.txt", b"a caption"), ("0010.txt", b"alone")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    shard(folder / "train-000002.tar", range(5, 8))
    run_training(photograph_training(folder, backbones, tmp_path / "run", "data.sample_split=null"), tmp_path / "run")
    skipped = json.loads((tmp_path / "run" / "skipped.json").read_text())
    assert skipped.keys() == {"0009", "0010"}
    assert "0009.png cannot be read" in skipped["0009"]
    here = (f"run={run}", f"output={tmp_path / 'there'}", "shots=[2]", "control_shots=[]")
    run_evaluation(
        evaluation(shards, *here, f"task.support={folder}/*.tar", "demonstrations=[random]", "features.folder=null")
    )
    looked = json.loads((tmp_path / "there" / "images-flickr8k.json").read_text())
    assert looked == {"warnings": [], "near_duplicates": None, "skipped": skipped}


@pytest.fixture
def beside_captions(tmp_path):
    """Photographs with a file of captions; two are broken, the first by a missing end."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(6):
        photograph(number).save(folder / f"{number}.png")
    rows = [{"image": f"{number}.png", "caption": f"a dog {number}"} for number in range(6)]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:-40])
    (folder / "5.png").write_bytes(b"no picture")
    return folder


def test_a_broken_image_file_is_named_before_training(beside_captions, backbones, tmp_path):
    """It was found when it was first drawn, perhaps after hours."""
    output = tmp_path / "run"
    overrides = ("features.folder=null", "data.split=null", "data.sample_split=null", "~data.documents.interleaved")
    with pytest.raises(UserError, match=r"3\.png cannot be read.*2 of 6"):
        run_training(photograph_training(beside_captions, backbones, output, *overrides), output)
    assert [path.name for path in output.iterdir()] == ["failure.txt"]


def test_a_broken_image_file_is_named_before_an_evaluation(beside_captions, run, shards, tmp_path):
    """Also in the support, of which no evaluation may draw it."""
    here = (f"run={run}", f"output={tmp_path / 'there'}", "demonstrations=[random]", "features.folder=null")
    for key in ("query", "support"):
        with pytest.raises(UserError, match=r"3\.png cannot be read.*2 of 6"):
            run_evaluation(evaluation(shards, *here, "shots=[0]", "controls=[]", f"task.{key}={beside_captions}"))
    assert not (tmp_path / "there").exists()


@pytest.mark.full
def test_captions_that_fit_no_document_are_left_out_everywhere(shards, backbones, tmp_path):
    """A special token or too many words in one of 24 records once ended training at the step that drew it.

    The tokenizer states no limit: that of the language model's 128 positions holds.
    """
    said = {3: ["a dog", "a dog</s> a cat"], 4: ["<image> a dog"], 9: ["a dog " * 80], 11: [" "]}
    folder = tmp_path / "shards"
    folder.mkdir()
    shard(folder / "train-000000.tar", range(24), said=said)
    shutil.copytree(backbones / "opt", tmp_path / "opt")
    settings = json.loads((tmp_path / "opt" / "tokenizer_config.json").read_text())
    del settings["model_max_length"]
    (tmp_path / "opt" / "tokenizer_config.json").write_text(json.dumps(settings))
    overrides = (f"model.language={tmp_path / 'opt'}", "data.sample_split=null", "training.steps=12")
    run_training(photograph_training(folder, backbones, tmp_path / "run", *overrides), tmp_path / "run")
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 12
    skipped = json.loads((tmp_path / "run" / "skipped.json").read_text())
    assert skipped.keys() == {"0003", "0004", "0009", "0011"}
    assert [skipped[id].partition(":")[0] for id in ("0003", "0004", "0009", "0011")] == [
        *["a caption has a special token"] * 2,
        "a caption is too long",
        "a caption is empty",
    ]
    here = (
        f"run={tmp_path / 'run'}",
        f"task.support={folder}/*.tar",
        "demonstrations=[random]",
        "features.folder=null",
    )
    run_evaluation(evaluation(shards, *here, "shots=[2]", "control_shots=[]", "text_only=false"))
    looked = json.loads((tmp_path / "run" / "images-flickr8k.json").read_text())
    assert looked["skipped"].keys() == skipped.keys()
    shown = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    assert not {id for row in map(json.loads, shown) for id in row["demonstration_ids"]} & skipped.keys()
    assert len(shown) == 4


@pytest.mark.full
def test_changed_metrics_score_the_existing_predictions(run, shards, tmp_path, monkeypatch):
    here = (f"run={run}", f"output={tmp_path}", "shots=[0,2]", "controls=[]", "demonstrations=[random]")
    with pytest.raises(UserError, match=r"task\.metrics .*CIDEr.*'cider'"):
        run_evaluation(evaluation(shards, *here, "task.metrics=[cider]"))
    assert not list(tmp_path.iterdir())
    run_evaluation(evaluation(shards, *here, "task.metrics=[BLEU-1]"))
    predictions = (tmp_path / "predictions.jsonl").read_bytes()

    def decode(*args, **kwargs):
        raise AssertionError("the model is asked again")

    monkeypatch.setattr("flamingo.inference.flamingo_engine.FlamingoEngine.generate", decode)
    run_evaluation(evaluation(shards, *here, "task.metrics=[CIDEr,BLEU-4]"))
    assert (tmp_path / "predictions.jsonl").read_bytes() == predictions
    assert {row["metric"] for row in json.loads((tmp_path / "scores.json").read_text())} == {"CIDEr", "BLEU-4"}
    with pytest.raises(UserError, match=r"max_new_tokens"):
        run_evaluation(evaluation(shards, *here, "max_new_tokens=3"))


def test_metrics_without_java_are_named_before_the_model_loads(run, shards, tmp_path, monkeypatch, caplog):
    class LoadedError(Exception):
        pass

    def load(*args, **kwargs):
        raise LoadedError

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("experiments.runs.run_evaluation.FlamingoForConditionalGeneration.from_pretrained", load)
    with pytest.raises(LoadedError):
        run_evaluation(evaluation(shards, f"run={run}", f"output={tmp_path}", "task.metrics=[CIDEr,METEOR]"))
    assert [message for message in caplog.messages if "METEOR" in message]


def test_queries_in_the_support_get_as_many_similar_examples(run, shards, tmp_path):
    here = (f"run={run}", f"output={tmp_path}", f"task.support={shards}/dev-*.tar", "controls=[]", "text_only=false")
    run_evaluation(evaluation(shards, *here, "demonstrations=[rices]", "shots=[2]", "limit=null"))
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert all(len(set(row["demonstration_ids"]) - {row["query"]}) == 2 for row in rows)


def test_tasks_whose_files_coincide_are_refused_by_both_names(run, shards, tmp_path):
    here = (f"run={run}", f"output={tmp_path}", "shots=[0]", "text_only=false", "controls=[]", "limit=1")
    first, second = (evaluation(shards, *here, f"task.name={name}") for name in ("a/b", "a-b"))
    named = r"task\.name was 'a/b', is 'a-b'"
    with pytest.raises(UserError, match=named):
        check_outputs([plan(first), plan(second)], run)
    run_evaluation(first)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=named):
        run_evaluation(second)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["photographs " * 30, "a[b]*", "two\nlines", "a\0b"])
def test_a_task_may_have_any_name(run, shards, tmp_path, name):
    config = evaluation(shards, f"run={run}", f"output={tmp_path}", "shots=[0]", "text_only=false", "controls=[]")
    config.task.name = name
    run_evaluation(config)
    run_evaluation(replace(config, seeds=[0, 1]))
    assert {row["task"] for row in json.loads((tmp_path / "scores.json").read_text())} == {name}


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["features.folder=null"], r"similar.*features\.folder"),
        (["model.language=nowhere/at/all"], r"model\.language.*nowhere/at/all"),
        (["data.split=validation"], r"^data\.split=validation: .*dev, train"),
        (["optimizer.warmup_steps=4"], r"optimizer\.warmup_steps.*4"),
        (["evaluate=[{kind:flickr8k}]"], r"task\.query"),
        (["evaluate=[{kind:flickr8k,task:{query:gone.tar,support:gone.tar}}]"], r"gone\.tar"),
    ],
    ids=lambda value: str(value),
)
def test_mistakes_are_found_before_features_are_computed(shards, backbones, tmp_path, overrides, named):
    output = tmp_path / "run"
    with pytest.raises(UserError, match=named):
        run_training(photograph_training(shards, backbones, output, *overrides), output)
    assert [path.name for path in output.iterdir()] == ["failure.txt"]


def test_foreign_features_are_refused_before_a_run_is_removed(run, shards, backbones, tmp_path):
    folder = tmp_path / "features"
    shutil.copytree(run / "features", folder)
    state = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps(state | {"dtype": "float16"}))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=str(folder)):
        config = photograph_training(shards, backbones, run, f"features.folder={folder}", "overwrite=true")
        run_training(config, run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_an_evaluation_says_what_it_needs(shards, run, tmp_path):
    with pytest.raises(UserError, match=r"task\.query"):
        run_evaluation(evaluation(shards, f"run={run}", "task.query='???'"))
    with pytest.raises(UserError, match=r"rices.*features\.folder"):
        run_evaluation(evaluation(shards, f"run={run}", "features.folder=null", f"output={tmp_path / 'a'}"))
    assert not (tmp_path / "a").exists()
