"""From a config's data to batches of tensors."""

import json
import random
from itertools import islice

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from experiments.runs.run_training import run_training
from experiments.schema import DataConfig, DataSetConfig, check_documents
from experiments.setup.build import build_model
from experiments.setup.build_data import build_data_sets, build_records, build_samples
from flamingo.data.encode import EncodedDocuments
from flamingo.synthetic import SyntheticDocumentsConfig
from flamingo.synthetic.documents import SyntheticDocuments
from flamingo.training.losses import NextTokenConfig
from flamingo.training.state import StateFolder
from flamingo.utils.errors import UserError
from tests import tiny
from tests.experiments.conftest import photograph, shard
from tests.helpers.configs import composed
from tests.helpers.small_runs import TWO_STEPS, photograph_training

VERSIONS = 2


@pytest.fixture
def parts(shards, backbones, tmp_path):
    pairs = (
        f"data.documents.pairs.captions_per_image={VERSIONS}",
        "data.documents.pairs.pack_to=0",
        "~data.documents.interleaved",
    )
    config = photograph_training(shards, backbones, tmp_path, *pairs)
    model, processor = build_model(config.model)
    tiny.open_gates(model, 0.7)
    records = build_records(config.data, processor)
    [data] = build_data_sets(config.data, records, processor, None, seed=0, num_workers=0)
    return model.eval(), data


def test_versions_of_a_document_share_its_images(parts):
    model, data = parts
    batch = next(iter(data.batches))
    tensors = data.prepare(batch.tensors)
    assert len(batch.ids) == len(tensors["pixel_values"]) == 2
    assert len(tensors["input_ids"]) == 2 * VERSIONS
    with torch.no_grad():
        together = model(**tensors).logits
        for row in range(2 * VERSIONS):
            own = {name: tensors[name][row : row + 1] for name in ("input_ids", "attention_mask", "image_index")}
            alone = model(**own, pixel_values=tensors["pixel_values"][row // VERSIONS, None]).logits
            torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-5)
            other = model(**own, pixel_values=tensors["pixel_values"][1 - row // VERSIONS, None]).logits
            assert (other - alone).abs().max() > 1e-4
    assert not torch.equal(tensors["input_ids"][0], tensors["input_ids"][1])


def test_training_reduces_large_pictures_on_request(shards, backbones, tmp_path):
    found = {}
    for draft in (True, False):
        config = photograph_training(shards, backbones, tmp_path, f"data.draft={draft}", "~data.documents.interleaved")
        _, processor = build_model(config.model)
        records = build_records(config.data, processor)
        [data] = build_data_sets(config.data, records, processor, None, seed=0, num_workers=0)
        assert not processor.draft
        assert data.batches.batches.items.processor.draft == draft
        found[draft] = next(iter(data.batches)).tensors["pixel_values"]
    assert found[True].shape == found[False].shape


@pytest.mark.parametrize(("data", "features"), [("images", "somewhere"), ("synthetic_pairs", None)])
def test_draft_is_refused_where_training_opens_no_picture(data, features):
    config = composed("train", f"data={data}", "data.draft=true", "data.root=null")
    with pytest.raises(UserError, match=r"data\.draft"):
        check_documents(config.data, features)


@pytest.mark.parametrize("kind", ["images", "synthetic"])
def test_batches_do_not_depend_on_workers_or_global_randomness(shards, backbones, tmp_path, kind):
    """Captions, views, the coin of p_next and drawn scenes are functions of seed and position."""
    settings = (
        "data.documents.pairs.p_next=0.5",
        "data.documents.pairs.num_crops=3",
        "data.documents.interleaved.similar_prob=0",
    )
    small = [f"data.documents.{name}.batch_size=1" for name in ("captions", "binding", "questions")]
    synthetic = composed("train", "data=synthetic", *small)
    config = photograph_training(shards, backbones, tmp_path, *settings) if kind == "images" else synthetic
    _, processor = build_model(config.model)
    records = build_records(config.data, processor)

    def drawn(num_workers, state):
        random.seed(state), np.random.seed(state), torch.manual_seed(state)
        sets = build_data_sets(config.data, records, processor, None, seed=0, num_workers=num_workers)
        return {data.name: list(islice(data.batches, 4)) for data in sets}

    expected = drawn(0, state=1)
    for num_workers in (0, 2):
        for name, batches in drawn(num_workers, state=2).items():
            for actual, wanted in zip(batches, expected[name], strict=True):
                assert actual.ids == wanted.ids
                assert actual.tensors.keys() == wanted.tensors.keys()
                assert all(torch.equal(value, wanted.tensors[key]) for key, value in actual.tensors.items())


@pytest.mark.full
def test_another_number_of_workers_resumes_to_equal_checkpoints(tmp_path, monkeypatch):
    def run(name, workers):
        run_training(
            composed("train", *TWO_STEPS, f"num_workers={workers}", f"output={tmp_path / name}"), tmp_path / name
        )

    run("never stopped", 1)
    save = StateFolder.save

    def save_and_stop(self, progress):
        save(self, progress)
        raise KeyboardInterrupt

    monkeypatch.setattr(StateFolder, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", 0)
    monkeypatch.setattr(StateFolder, "save", save)
    assert not (tmp_path / "stopped" / "checkpoint").exists()
    run("stopped", 2)
    first, second = (tmp_path / name / "checkpoint" / "model.safetensors" for name in ("never stopped", "stopped"))
    assert first.read_bytes() == second.read_bytes()


def test_the_batches_of_a_training_are_checked_by_the_loader(shards, backbones, tmp_path, monkeypatch):
    """So that the model need not read them back from its device."""
    made = []

    def keep(model, data_sets, *args, **kwargs):
        made.extend(next(iter(data_set.batches)) for data_set in data_sets)
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.runs.run_training.train", keep)
    with pytest.raises(KeyboardInterrupt):
        run_training(photograph_training(shards, backbones, tmp_path), tmp_path / "run")
    assert len(made) == 2
    for batch in made:
        documents, images = batch.tensors["image_features"].shape[:2]
        assert 1 <= len(batch.tensors["image_places"]) <= documents * images
        assert len(batch.tensors["label_places"]) == batch.label_tokens


def test_twelve_images_without_splits_suffice_for_the_default(backbones, tmp_path, caplog):
    folder = tmp_path / "few"
    folder.mkdir()
    for number in range(12):
        photograph(number).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a dog {number}\n")
    overrides = [
        "data=images",
        f"data.root={folder}",
        "data.split=train",
        "data.sample_split=validation",
        "data.documents.interleaved.similar_prob=0",
        f"model.vision={backbones / 'clip_vision_model'}",
        "model.vision_features.class_token=drop",
        f"model.language={backbones / 'opt'}",
    ]
    config = composed("train", *overrides)
    assert config.data.documents["interleaved"].documents.max_images == 9
    _, processor = build_model(config.model)
    records = build_records(config.data, processor)
    assert (len(records.training.records), len(records.samples.records)) == (8, 2)
    assert "data.documents.interleaved.max_images is 9, but there are only 8 images" in caplog.text
    sets = build_data_sets(config.data, records, processor, None, seed=0, num_workers=0)
    batch = next(iter(sets[1].batches))
    assert batch.tensors["pixel_values"].shape[1] == 8
    samples = build_samples(config.data, records, 1, processor, processor.tokenizer.model_max_length)
    assert [len(sample.chunks()) for sample in samples] == [1, 2]


@pytest.mark.full
def test_images_lost_by_long_captions_are_counted_in_the_history(backbones, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    said = {number: [f"a dog {number} " + "a cat " * 15] for number in range(12)}
    shard(folder / "train-000000.tar", range(12), said=said)
    overrides = (
        "data.sample_split=null",
        "~data.documents.pairs",
        "data.documents.interleaved.min_images=6",
        "data.documents.interleaved.max_images=6",
        "data.documents.interleaved.similar_prob=0",
        "training.log_every=1",
    )
    run_training(photograph_training(folder, backbones, tmp_path / "run", *overrides), tmp_path / "run")
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    counts = [json.loads(line)["dropped_images"] for line in lines]
    assert 0 < counts[0] < counts[1] < counts[-1]
    assert json.loads((tmp_path / "run" / "skipped.json").read_text()) == {}


def test_data_sets_of_one_run_differ_in_their_order(shards, backbones, tmp_path):
    same = (
        "data.documents.pairs.batch_size=7",
        "data.documents.interleaved.batch_size=7",
        "data.documents.interleaved.similar_prob=0",
    )
    config = photograph_training(shards, backbones, tmp_path, *same)
    _, processor = build_model(config.model)
    records = build_records(config.data, processor)
    sets = build_data_sets(config.data, records, processor, None, seed=0, num_workers=0)
    first, second = ([name.split()[0] for name in next(iter(data.batches)).ids] for data in sets)
    assert len(first) == len(second) == 7
    assert first != second


def test_p_next_is_a_coin_of_the_document_with_its_probability(backbones):
    _, processor = build_model(composed("train").model)
    documents = SyntheticDocuments("captions", "training", 0, 2, 2, 0.0)

    def sees(p_next):
        """What the last word of each of 40 documents' first captions sees, counted from their first image."""
        encoded = EncodedDocuments(documents, processor, p_next=p_next)
        return [int(encoded[index].examples[0].image_index[5]) for index in range(40)]

    assert sees(0.0) == [0] * 40
    assert sees(1.0) == [1] * 40
    half = sees(0.5)
    assert half == sees(0.5) and 10 <= sum(half) <= 30


def test_bytes_of_a_loader_become_the_pixels_of_the_processor():
    model, processor = build_model(composed("train").model)
    captions = SyntheticDocumentsConfig(kind="synthetic_captions", min_images=2, max_images=2, batch_size=3)
    config = DataConfig(documents={"captions": DataSetConfig(captions, NextTokenConfig())})
    [data] = build_data_sets(config, None, processor, None, seed=0, num_workers=0)
    batch = next(iter(data.batches))
    assert batch.tensors["pixel_values"].dtype == torch.uint8
    with pytest.raises((ValueError, TypeCheckError), match="pixel_values"):  # the checks of tests come first
        model(**batch.tensors)
    documents = SyntheticDocuments("captions", "training", 0, 2, 2, 0.0)
    drawn = [documents[int(name.rpartition("/")[2])] for name in batch.ids]
    assert [document.id for document in drawn] == batch.ids
    expected = processor.batch(drawn)["pixel_values"]
    torch.testing.assert_close(data.prepare(batch.tensors)["pixel_values"], expected, rtol=0, atol=1e-6)


@pytest.mark.full
def test_packed_batches_have_the_loss_of_padded_ones(shards, backbones, tmp_path):
    losses = []
    for pack, rows in ((0, 0), (100, 0), (100, 7)):
        overrides = (
            f"data.documents.pairs.pack_to={pack}",
            f"data.documents.pairs.rows={rows}",
            "data.documents.pairs.batch_size=3",
            "~data.documents.interleaved",
        )
        config = photograph_training(shards, backbones, tmp_path, *overrides)
        torch.manual_seed(0)
        model, processor = build_model(config.model)
        tiny.open_gates(model, 0.7)
        records = build_records(config.data, processor)
        [data] = build_data_sets(config.data, records, processor, None, seed=0, num_workers=0)
        batch = next(iter(data.batches))
        with torch.no_grad():
            losses.append((batch.ids, batch.label_tokens, model.eval()(**data.prepare(batch.tensors)).loss))
    assert batch.tensors["input_ids"].shape == (7, 100)
    for packed in losses[1:]:
        assert packed[:2] == losses[0][:2]
        torch.testing.assert_close(packed[2], losses[0][2])
