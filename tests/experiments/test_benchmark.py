"""Tests what the benchmark reports, not the times that it measures."""

from dataclasses import asdict

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmark.few_shot import Agreement, FewShot
from experiments.benchmark.flops import training_step
from experiments.benchmark.materials import Sizes, build, make_batch, make_prompts
from experiments.benchmark.ratios import Ratio, make_ratio, write_ratios
from experiments.benchmark.steps import Steps
from experiments.benchmark.utilisation import utilisation
from experiments.benchmark.worker import Machine
from flamingo import FlamingoForConditionalGeneration
from flamingo.model.fusion import gated_block

SMALL = Sizes(shots=[3], support=6, queries=5, text=8, vocab_size=500, train_images=3, train_tokens=12, image_size=32)


class TableWorker:
    """A worker that answers from a table; ``scores`` of continuations by their text."""

    name = "open-flamingo"

    def __init__(self, seconds, texts=(), scores=None):
        self.seconds, self.texts, self.scores, self.asked = iter(seconds), texts, scores or {}, []

    def ask(self, do, **request):
        self.asked.append((do, request))
        answers = {"few_shot": lambda: self.texts, "text": lambda: request["ids"], "image_token": lambda: 7}
        answers |= {"score": lambda: self.scores[request["text"]], "tensors": lambda: None}
        answers |= {"train_step": lambda: [100.0, *[next(self.seconds)] * 2]}
        seconds = next(self.seconds) if do == "few_shot" else 0.0
        return {"result": answers[do](), "seconds": seconds, "peak": 0.0}


def test_a_row_has_the_median_of_the_ratios_of_paired_runs():
    row = make_ratio("decode", "1 image", "idefics", [1.0, 2.0, 4.0], [3.0, 4.0, 40.0], "s")
    assert row == Ratio(
        benchmark="decode",
        case="1 image",
        peer="idefics",
        ours=2.0,
        theirs=4.0,
        unit="s",
        ratio=3.0,
        spread=[2.0, 10.0],
    )


@pytest.mark.parametrize(
    ("difference", "outcome"), [(None, (3, 0, 0)), (5e-5, (0, 3, 0)), (1e-2, (0, 0, 3))], ids=["same", "tie", "other"]
)
def test_outputs_are_the_same_or_nearly_tied_or_reported(tmp_path, difference, outcome):
    texts = ["mine"] * 5
    ours = TableWorker([10.0, 20.0, 40.0], texts, {"mine": -3.0, "theirs": -3.0 + (difference or 0)})
    theirs = TableWorker([8.0] * 3, "mine" if difference is None else "theirs")
    agreement = Agreement(1e-4)
    [row] = FewShot(SMALL, ours, theirs, tmp_path, 3, 1, agreement).run("few_shot", shared=False)
    assert (row.ours, row.theirs, row.ratio) == (4.0, 8.0, 2.0)  # 20 s for 5 queries, 8 s for one
    assert (agreement.identical, len(agreement.ties), len(agreement.different)) == outcome
    asked = [request["prompt"] for do, request in ours.asked if do == "tensors"]
    # Other queries in each round.
    assert asked == [asdict(prompt) for prompt in make_prompts(SMALL, 3, shared=False)[:3]]
    write_ratios(tmp_path, [row], agreement, Machine(2, "cpu", "fp32"))
    assert "| few_shot | 3 shots | open-flamingo |" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "results.png").stat().st_size > 1000


def test_the_first_of_a_measurements_steps_does_not_count(tmp_path):
    [row] = Steps(SMALL, TableWorker([2.0]), [TableWorker([3.0])], tmp_path, 1).train_step()
    assert (row.ours, row.theirs) == (2.0, 3.0)


def test_demonstrations_are_shared_by_all_queries_or_their_own():
    own, shared = (make_prompts(SMALL, 3, shared) for shared in (False, True))
    assert len({str(prompt.demonstrations) for prompt in own}) > 1
    assert len({str(prompt.demonstrations) for prompt in shared}) == 1
    assert [prompt.query for prompt in own] == [6, 7, 8, 9, 10]
    assert all(len(text.split()) == 8 - 2 for prompt in own for _, text in prompt.demonstrations)


def test_a_batch_has_its_markers_where_its_images_begin():
    made = make_batch(SMALL, images=3, tokens=12, image_token=499)
    assert made["image_index"][0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert (made["input_ids"] == 499).nonzero()[:, 1].tolist() == [0, 4, 8] * 2
    assert torch.equal(made["labels"] == -100, made["input_ids"] == 499)
    assert made["pixel_values"].shape == (2, 3, 3, 32, 32)


def test_the_arithmetic_of_a_step_is_what_torch_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(
        gated_block, "checkpointed", lambda function, *tensors: function(*tensors)
    )  # twice is not needed
    # 32 tokens an image, so that blocks of cross-attention are full.
    small = Sizes(**{**vars(SMALL), "width": 64, "layers": 2, "heads": 2, "vision_width": 64, "vision_layers": 2})
    small.train_images, small.train_tokens = 2, 64
    build(tmp_path, small)
    model = FlamingoForConditionalGeneration.from_pretrained(tmp_path / "flamingo").train()
    inputs = make_batch(small, 2, 64, image_token=499)
    del inputs["image_features"]
    # As products of matrices, for torch does not count the CPU's own attention kernel.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(**inputs).loss.backward()
    assert sum(training_step(small.shape(), 2, 64, 2).values()) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_utilisation_is_the_share_of_the_peak():
    total = sum(training_step(SMALL.shape(), 2, 12, 3).values()) / 1e12
    assert "| ours | 2.0000 |" in (text := utilisation(SMALL, {"ours": 2.0}, peak=total)) and "| 50.0% |" in text
