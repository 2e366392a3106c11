"""The GPU check runs with tiny sizes on a CPU, without optional packages, and writes a report even if it is ended."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch

from experiments.gpu_check import demo
from experiments.gpu_check.big_model import TINY, build_model, build_processor, make_training_batch
from experiments.gpu_check.check_parts import PARTS, TOTAL, Part, Settings
from experiments.gpu_check.check_report import has_failed, write_report
from experiments.gpu_check.cuda_tests import outcome_of
from experiments.gpu_check.marks import Marks, Synchronisations
from experiments.gpu_check.measured_training import fitting_rows, run_steps
from experiments.gpu_check.running import Result, Runner
from experiments.gpu_check.step_profile import Work, kind_of, summary
from experiments.gpu_check.training_step import FULL, SMALL, measure
from experiments.schema import as_recorded
from tests.helpers.configs import composed
from tests.helpers.host_reads import HostReads

ROOT = Path(__file__).parent.parent.parent
#: What a GPU machine may lack: experiments/gpu_check runs without these.
MISSING = ("hydra", "omegaconf", "wandb", "datasets", "grain", "pycocoevalcap", "torchdata", "beartype")
#: What a command of the check takes from the configs of the commands, and where it lies.
HOW_IT_IS_RUN = ("output", "run", "device", "tracker", "wandb", "left_open")


def check(*arguments, **kwargs):
    """Runs the check's command in small on the CPU."""
    command = [sys.executable, "-m", "experiments.gpu_check", "--small", "--device", "cpu", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **kwargs)


def without(values, keys):
    return {key: value for key, value in values.items() if key not in keys}


# ------------------------------------------------------------------------------------- configs


def test_the_demo_is_the_one_that_hydra_composes(tmp_path):
    training = as_recorded(demo.training_config(tmp_path))
    assert without(training, HOW_IT_IS_RUN) == without(as_recorded(composed("train", "experiment=demo")), HOW_IT_IS_RUN)
    evaluation = as_recorded(demo.evaluation_config(tmp_path))
    assert without(evaluation, HOW_IT_IS_RUN) == without(as_recorded(composed("evaluate")), HOW_IT_IS_RUN)


def test_an_update_has_16k_tokens_and_the_check_8_minutes():
    assert FULL.size.rows * FULL.size.tokens == 2**14 and FULL.size.images == 3
    assert TOTAL <= 480 and all(part.limit < TOTAL for part in PARTS)


# ------------------------------------------------------------------------------------- the runs


@pytest.mark.full
def test_a_part_needs_no_package_that_a_gpu_machine_may_lack(tmp_path):
    program = (
        f"import sys; sys.modules |= dict.fromkeys({MISSING!r});"
        "from importlib import import_module;"
        "from pathlib import Path;"
        "from experiments.gpu_check.check_parts import PARTS, Settings;"
        "modules = {part.name: import_module(part.location.partition(':')[0]) for part in PARTS};"
        f"settings = Settings(Path({str(tmp_path)!r}), 'cpu', True);"
        "modules['reward'].reward(settings, lambda values, text: print(len(values['losses'])))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1:] == ["2"], run.stderr


@pytest.mark.full
def test_all_parts_run_small_on_a_cpu(tmp_path):
    run = check("--output", tmp_path)
    results = json.loads((tmp_path / "report.json").read_text())
    assert [result["part"] for result in results] == [part.name for part in PARTS]
    skipped = [result["part"] for result in results if result["status"] == "skipped"]
    assert skipped == ["compiled_step"], run.stdout
    done = [result for result in results if result["status"] == "done"]
    assert len(done) == len(PARTS) - 1, run.stdout
    assert run.returncode == 0
    page = (tmp_path / "report.md").read_text()
    for result in done:
        assert f"## {result['part']}" in page and result["values"]
    assert "the goal is 10: " in page and "the goal is 2: " in page


def test_a_training_step_is_measured(tmp_path):
    saved = []
    measure(Settings(tmp_path, "cpu", small=True), lambda values, text: saved.append((values, text)))
    [(values, text)] = saved
    assert values["seconds"] == pytest.approx(sum(values["seconds_of_parts"].values()), rel=0.5)
    tokens = SMALL.size.rows * SMALL.size.tokens
    assert values["tokens_per_second"] == pytest.approx(tokens / values["seconds"])
    assert values["tflops"] == pytest.approx(values["tflop"] / values["seconds"])
    assert {"vision encoder", "connector", "optimizer", "loss, backward, clipping"} <= values["seconds_of_parts"].keys()
    assert values["mfu"] is None and values["batches"] == 1 and values["rows_that_do_not_fit"] == []
    assert "MFU is the arithmetic over the time" in text
    assert not list(tmp_path.rglob("state"))


def test_the_measured_step_waits_only_for_masks_of_transformers(monkeypatch):
    processor = build_processor(TINY)
    model = build_model(TINY, processor, torch.device("cpu"), torch.bfloat16)
    batch = make_training_batch(TINY, processor, SMALL.size)
    with HostReads(monkeypatch) as reads:
        reads.counts = False

        def on_step(step):
            reads.counts = step in (1, 2)  # of four

        run_steps(model, processor, batch, 2, 4, on_step)
    assert not reads.found["ours"] and not reads.found["others"]
    assert all(place.startswith("masking_utils.py") for place in reads.found["transformers"])


# ------------------------------------------------------------------------------------- the runner


def fake(function, limit=60, measures=True, name=None):
    return Part(name or function, f"tests.experiments.fake_parts:{function}", limit, measures)


def run_parts(parts, output, total=300):
    """Returns the results by the part's name, and what the report's files held at each call."""
    reports = []

    def report(results, changed):
        write_report(results, output)
        rows = json.loads((output / "report.json").read_text())
        reports.append({row["part"]: row["status"] for row in rows})

    runner = Runner(parts, Settings(output, "cpu", small=True), total, report)
    runner.run()
    return {result.part: result for result in runner.results}, reports


def is_running(process_id):
    """Whether a process is there, and is no zombie."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.full
def test_a_part_that_fails_hangs_or_crashes_does_not_end_others(tmp_path):
    parts = [fake("skip"), fake("save_and_fail"), fake("hang", limit=6), fake("crash"), fake("finish", measures=False)]
    results, _ = run_parts(parts, tmp_path)
    statuses = {name: result.status for name, result in results.items()}
    assert statuses == {
        "skip": "skipped",
        "save_and_fail": "failed",
        "hang": "out of time",
        "crash": "failed",
        "finish": "done",
    }
    assert results["skip"].reason == "it is not there"
    assert results["save_and_fail"].values == {"number": 1} and "no second half" in results["save_and_fail"].reason
    assert "exit status -11" in results["crash"].reason
    assert results["finish"].values == {"device": "cpu", "small": True}
    assert not is_running(results["hang"].values["child"])
    page = (tmp_path / "report.md").read_text()
    for text in ("the first half", "no second half", "before it hangs", "all of it", "skipped: it is not there"):
        assert text in page


def test_a_report_is_there_at_any_time(tmp_path):
    _, reports = run_parts([fake("finish"), fake("skip")], tmp_path)
    assert reports == [
        {"finish": "running", "skip": "waiting"},
        {"finish": "done", "skip": "waiting"},
        {"finish": "done", "skip": "running"},
        {"finish": "done", "skip": "skipped"},
    ]


@pytest.mark.full
def test_no_part_is_started_when_the_time_of_all_is_over(tmp_path):
    results, _ = run_parts([fake("hang"), fake("finish")], tmp_path, total=6)
    assert results["hang"].status == "out of time" and 4 < results["hang"].seconds < 60
    assert results["finish"].status == "not started"


def test_parts_that_do_not_measure_run_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    parts = [fake("finish", name=name, measures=False) for name in ("first", "second", "third")]
    _, reports = run_parts(parts, tmp_path)
    running = [list(report.values()).count("running") for report in reports]
    assert max(running) == 2 and reports[-1] == dict.fromkeys(("first", "second", "third"), "done")


def test_ctrl_c_ends_what_runs(tmp_path):
    runner = Runner(
        [fake("hang", limit=20), fake("finish")],
        Settings(tmp_path, "cpu", small=True),
        300,
        lambda results, changed: None,
    )
    recorded = tmp_path / "parts" / "hang.json"

    def interrupt():
        while not recorded.exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    # Ended by the signal, not at its limit, with the process that it has started.
    assert [result.status for result in runner.results] == ["failed", "waiting"]
    assert not is_running(json.loads(recorded.read_text())["values"]["child"])


def test_the_exit_status_says_whether_a_part_failed(tmp_path):
    assert check("--output", tmp_path, "--only", "machine", "--seconds", "120").returncode == 0
    assert has_failed([Result("a", "done"), Result("b", "out of time")])
    assert not has_failed([Result("a", "done"), Result("b", "skipped"), Result("c", "not started")])


@pytest.mark.parametrize(
    ("line", "tested"),
    [
        ("tests/a.py::t PASSED                       [ 42%]", ("tests/a.py::t", "PASSED")),
        ("tests/a.py::t[a PASSED b] FAILED           [100%]", ("tests/a.py::t[a PASSED b]", "FAILED")),
        ("tests/a.py::t SKIPPED (there is no java)   [  1%]", ("tests/a.py::t", "SKIPPED")),
        ("[gw12] [  3%] FAILED tests/a.py::t[keys and values] ", ("tests/a.py::t[keys and values]", "FAILED")),
        ("ERROR tests/model/test_adapters.py", ("tests/model/test_adapters.py", "ERROR")),
        ("FAILED tests/a.py::t - AssertionError: x", None),  # of the summary
        ("E   AssertionError: tests/a.py", None),
    ],
)
def test_outcomes_of_tests_are_read_while_they_run(line, tested):
    assert outcome_of(line + "\n") == tested


# ------------------------------------------------------------------------------------- measuring


@pytest.mark.full
def test_an_update_that_does_not_fit_is_made_of_several_batches():
    tried = []

    def run(rows, batches):
        tried.append((rows, batches))
        if rows > 16:
            raise torch.OutOfMemoryError

    assert fitting_rows(64, run) == [64, 32]
    assert tried == [(64, 1), (32, 2), (16, 4)]
    with pytest.raises(torch.OutOfMemoryError):
        fitting_rows(8, lambda rows, batches: run(64, 1))


def test_marks_tell_the_time_up_to_the_next_one(monkeypatch):
    times = iter([1.0, 1.5, 4.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    marks = Marks(torch.device("cpu"))
    for name in ("first", "second", "end"):
        marks.add(name)
    assert marks.seconds() == [("first", 0.5), ("second", 2.5)]


def test_waits_are_counted_by_the_projects_line_that_waits(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    waits = Synchronisations(torch.device("cuda"))

    def wait():
        warnings.warn("called a synchronizing CUDA operation (Triggered internally at ...)", stacklevel=1)

    waits.start()
    wait()
    wait()
    warnings.warn("something else", stacklevel=1)
    json.loads("{}", object_hook=lambda _: wait())
    waits.stop()
    assert modes == ["warn", "default"]
    line = wait.__code__.co_firstlineno + 1
    assert waits.places == {f"tests/experiments/test_gpu_check.py:{line} wait": 3}


def test_a_profile_lists_the_slowest_kernels_and_idle_time():
    """Two steps of 2 ms: in each 1 ms of products, overlapped by a copy, then a gap, then 0.2 ms of an addition."""
    work = []
    for begin in (0.0, 2000.0):
        work += [Work("sm90_gemm", begin, begin + 1000), Work("Memcpy HtoD", begin + 500, begin + 1200)]
        work.append(Work("vectorized_elementwise_kernel<add>", begin + 1800, begin + 2000))
    values = summary(work, steps=2)
    assert values["ms"] == 2.0 and values["busy_ms"] == pytest.approx(1.4)
    assert values["idle_share"] == pytest.approx(0.3)
    assert values["gaps_above_20_us"] == 1 and values["longest_gaps_ms"] == pytest.approx([0.6, 0.6])
    assert [kernel["name"] for kernel in values["slowest"]] == [
        "sm90_gemm",
        "Memcpy HtoD",
        "vectorized_elementwise_kernel<add>",
    ]
    assert values["slowest"][0] == {"name": "sm90_gemm", "ms": 1.0, "calls": 1.0}
    assert values["ms_by_kind"] == pytest.approx({"products": 1.0, "copies and casts": 0.7, "pointwise": 0.2})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_NNT", "products"),
        ("void pytorch_flash::flash_fwd_kernel<...>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "attention"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer and clipping"),
        ("void at::native::cunn_SoftMaxForward<4, float, float, LogSoftMaxForwardEpilogue>", "loss"),
        ("void at::native::GammaBetaBackwardSimpleCUDAKernel<float>", "norms and reductions"),
        ("void at::native::unrolled_elementwise_kernel<direct_copy_kernel_cuda>", "copies and casts"),
        ("void at::native::vectorized_layer_norm_kernel<float>", "norms and reductions"),
        ("void at::native::index_elementwise_kernel<...>", "indexing and sorting"),
    ],
)
def test_kinds_of_kernels(name, kind):
    assert kind_of(name) == kind
