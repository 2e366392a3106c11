"""A killed and resumed run equals one that was never stopped, and two processes equal one."""

import json
import multiprocessing
import signal
from itertools import chain, pairwise

import pytest
import torch

from flamingo.training import TrainingConfig
from flamingo.training.loop import train
from flamingo.training.optim import AdamWConfig, MuonConfig
from flamingo.training.step import DataSet
from flamingo.utils.errors import UserError
from tests.helpers.states import read_state
from tests.training import runs

# Its children are forked from a process that has imported everything and done nothing else.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.training.runs"])


def in_processes(target, *arguments_of_each):
    """Exit codes of processes that run side by side."""
    started = [processes.Process(target=target, args=arguments) for arguments in arguments_of_each]
    for process in started:
        process.start()
    for process in started:
        process.join()
    return [process.exitcode for process in started]


@pytest.fixture(scope="module")
def never_stopped(backbones, tmp_path_factory):
    output = tmp_path_factory.mktemp("never-stopped")
    assert in_processes(runs.mixed_run, (backbones, output)) == [0]
    return output


@pytest.mark.parametrize("kill_at", [2, 5, 6])
def test_a_killed_run_resumes_bit_for_bit_from_any_step(backbones, never_stopped, tmp_path, kill_at):
    """Before the first state, between two, and after the step but before the state of the second."""
    assert in_processes(runs.mixed_run, (backbones, tmp_path, kill_at)) == [-signal.SIGKILL]
    assert [record["step"] for record in runs.history(tmp_path)] == list(range(1, kill_at + 1))
    assert in_processes(runs.mixed_run, (backbones, tmp_path)) == [0]
    assert runs.history(tmp_path) == runs.history(never_stopped)
    seconds = [json.loads(line)["seconds"] for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert all(a < b for a, b in pairwise(seconds))
    final, expected = (torch.load(folder / "final.pt", weights_only=True) for folder in (tmp_path, never_stopped))
    assert final.keys() == expected.keys()
    assert all(torch.equal(final[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (2, 0),
        (0, 3),
        pytest.param(3, 1, marks=pytest.mark.full),
        pytest.param(1, 2, marks=pytest.mark.full),
        pytest.param(2, 2, marks=pytest.mark.full),
    ],
)
def test_another_number_of_workers_resumes_to_equal_weights(backbones, never_stopped, tmp_path, before, after):
    """Workers that are ahead of the training when it is killed change nothing."""
    assert in_processes(runs.mixed_run, (backbones, tmp_path, 5, before)) == [-signal.SIGKILL]
    assert in_processes(runs.mixed_run, (backbones, tmp_path, None, after)) == [0]
    assert runs.history(tmp_path) == runs.history(never_stopped)
    assert (tmp_path / "final.pt").read_bytes() == (never_stopped / "final.pt").read_bytes()


@pytest.mark.full
def test_one_two_and_four_processes_train_on_equal_batches(backbones, tmp_path):
    """Steps of the same documents, so that losses and weights differ by rounding alone."""
    weights, documents, losses = {}, {}, {}
    for num_ranks in (1, 2, 4):
        output, port = tmp_path / str(num_ranks), runs.free_port()
        arguments = [(rank, num_ranks, port, backbones, output) for rank in range(num_ranks)]
        assert in_processes(runs.one_of_several, *arguments) == [0] * num_ranks
        finals = [torch.load(output / f"final-{rank}.pt", weights_only=True) for rank in range(num_ranks)]
        steps = zip(*(final["drawn"] for final in finals), strict=True)
        documents[num_ranks] = [sorted(chain.from_iterable(shares)) for shares in steps]
        weights[num_ranks] = finals[0]["weights"]
        losses[num_ranks] = [record["loss"] for record in runs.history(output)]
    assert documents[1] == documents[2] == documents[4]
    assert [len(step) for step in documents[1]] == [8] * 5
    for num_ranks in (2, 4):
        assert losses[num_ranks] == pytest.approx(losses[1], rel=1e-4)
        for name, weight in weights[1].items():
            torch.testing.assert_close(weights[num_ranks][name], weight, rtol=0, atol=1e-4)


@pytest.mark.parametrize("fusion", ["cross_attention", pytest.param("prefix", marks=pytest.mark.full)])
def test_two_processes_are_one_with_both_their_batches(fusion, backbones, tmp_path):
    """Of unequal numbers of tokens, and the images all in one of them."""
    two, one = tmp_path / "two", tmp_path / "one"
    port = runs.free_port()
    codes = in_processes(runs.one_of_two, (0, port, backbones, two, fusion), (1, port, backbones, two, fusion))
    assert codes == [0, 0]
    assert in_processes(runs.one_with_both, (backbones, one, fusion)) == [0]
    model = runs.make_model(backbones, fusion)
    start = runs.trained(model)
    for a, b in zip(runs.history(two), runs.history(one), strict=True):
        assert a["tokens"] == b["tokens"]
        assert {k: a[k] for k in ("loss", "loss/pairs", "loss/texts", "gradient_norm")} == pytest.approx(
            {k: b[k] for k in ("loss", "loss/pairs", "loss/texts", "gradient_norm")}, rel=1e-5
        )
    ranks = [torch.load(two / f"final-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, weight in torch.load(one / "final.pt", weights_only=True).items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        assert not torch.equal(weight, start[name].cpu())
        torch.testing.assert_close(ranks[0][name], weight, rtol=0, atol=2e-5)
    assert sorted(path.name for path in (two / "state" / "step-00000002").iterdir()) == [
        ".metadata",
        "__0_0.distcp",
        "__1_0.distcp",
        "complete.json",
        "process-0.pt",
        "process-1.pt",
        "run.json",
    ]
    sets = [DataSet(name, runs.Listed(*share), weight) for name, share, weight in runs.two_shares(fusion)]
    with pytest.raises(UserError, match=r"processes.*2.*1"):
        train(model, sets, AdamWConfig(lr=1e-3), TrainingConfig(steps=2), two)


@pytest.mark.parametrize("optimizer", [AdamWConfig(lr=1e-3), MuonConfig(lr=1e-3)], ids=lambda config: config.kind)
def test_an_infinite_loss_in_one_process_holds_all_weights(backbones, tmp_path, optimizer):
    """Of step 3, with finite gradients; found before the state of step 4."""
    port = runs.free_port()
    arguments = [(rank, port, backbones, tmp_path, optimizer) for rank in (0, 1)]
    assert in_processes(runs.one_of_two_spoiled, *arguments) == [0, 0]
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-00000002"]
    saved = read_state(tmp_path, 2)["parameters"]
    for rank in (0, 1):
        error = (tmp_path / f"error-{rank}.txt").read_text()
        assert error.startswith("the loss of step 3 is not finite")
        assert error.endswith("documents of pairs: document 13")
        final = torch.load(tmp_path / f"final-{rank}.pt", weights_only=True)
        assert final["steps"] == [1, 2, 3, 4]
        assert all(torch.equal(weight, saved[name]) for name, weight in final["weights"].items())


def test_all_processes_stop_and_name_the_document_of_one(backbones, tmp_path):
    port = runs.free_port()
    arguments = [(rank, port, backbones, tmp_path, "cross_attention", 0) for rank in (0, 1)]
    codes = in_processes(runs.one_of_two, *arguments)
    assert codes == [0, 0]
    errors = [(tmp_path / f"error-{rank}.txt").read_text() for rank in (0, 1)]
    assert errors[0] == errors[1]
    assert errors[0].startswith("the loss of step 1 is not finite")
    assert errors[0].endswith("documents of pairs: document 3, document 7, document 11")
