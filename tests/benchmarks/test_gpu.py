"""The GPU benchmark without a GPU: tables, time, lengths, and processes that end early."""

import json
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import gpu
from benchmarks.gpu import (
    CONFORMANCE,
    SKIPPED,
    TRAINER,
    TRAINING,
    Bench,
    Deadline,
    Outcome,
    Report,
    Worker,
    conformance_jobs,
    conformance_line,
    conforms,
    exit_status,
    last_words,
    micro_batches,
    mnli_lengths,
    one_line,
    padded_line,
    relative,
    table_head,
    trainer_line,
    training_jobs,
    training_line,
    worker_environment,
)

VERSIONS = {"torch": "2", "transformers": "5", "accelerate": "1", "deepspeed": "0.19"}
UPDATE = Outcome("ok", values={"error": 2e-7, "dtypes": ["torch.float32"]})
SPEED = {
    "examples_per_second": 4321.4,
    "real_tokens_per_second": 168000.0,
    "padding_efficiency": 0.912,
    "mfu": 0.3456,
    "train_seconds": 0.8,
    "steps": 16,
    "data_wait_share": 0.01,
    "peak_gb": 9.87,
    "first_seconds": 40.0,
    "micro_batches": 3.9,
    "shapes": 12,
    "note": "",
}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_lengths_are_spread_like_those_of_mnli():
    lengths = mnli_lengths(50_000, seed=1)
    assert lengths.min() >= 4
    assert lengths.max() == 128
    assert lengths.mean() == pytest.approx(39, abs=0.5)
    assert np.percentile(lengths, 95) == pytest.approx(79, abs=3)
    assert np.median(lengths) < lengths.mean()
    assert (lengths == mnli_lengths(50_000, seed=1)).all()
    assert (lengths != mnli_lengths(50_000, seed=2)).any()


def test_a_deadline_counts_down_to_nothing():
    now = [100.0]
    deadline = Deadline(60, clock=lambda: now[0])
    assert deadline.left() == 60
    now[0] = 130.0
    assert (deadline.spent(), deadline.left()) == (30, 30)
    now[0] = 200.0
    assert deadline.left() == 0


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (Outcome("failed", "no memory"), "failed: no memory"),
        (Outcome("cannot", "deepspeed is not installed"), "cannot, because deepspeed is not in"),
        (SKIPPED, "skipped: no time left"),
    ],
)
def test_a_row_without_numbers_says_why_and_has_all_cells(outcome, text):
    for names, lead in ((CONFORMANCE, ("DDP", "bf16")), (TRAINER, ("BERT-base", 256))):
        line = padded_line(lead, outcome, len(names))
        assert len(cells(line)) == len(names)
        assert cells(line)[2].startswith(text)


def test_a_conformance_row_holds_both_comparisons():
    assert len(cells(table_head(CONFORMANCE).splitlines()[1])) == len(CONFORMANCE)
    line = conformance_line("ZeRO 2", "fp32", UPDATE, 3e-8)
    wanted = ["ZeRO 2", "fp32", "2.0e-07", "1e-05", "3.0e-08", "1e-05", "float32", "yes"]
    assert cells(line) == wanted
    assert cells(conformance_line("DDP", "fp32", UPDATE, None))[4:6] == ["–", "–"]
    assert cells(conformance_line("ZeRO 2", "fp32", UPDATE, 1e-3))[-1] == "NO"


@pytest.mark.parametrize(
    ("change", "beside", "ok"),
    [
        ({}, None, True),
        ({}, 1e-8, True),
        ({}, 2e-5, False),
        ({}, float("nan"), False),
        ({"error": 2e-5}, None, False),
        ({"error": float("nan")}, None, False),
        ({"dtypes": ["torch.bfloat16", "torch.float32"]}, None, False),
    ],
)
def test_only_what_is_within_all_bounds_conforms(change, beside, ok):
    assert conforms({**UPDATE.values, **change}, "fp32", beside) is ok


def test_relative_errors_are_of_whole_vectors():
    assert relative(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == pytest.approx(0.1)


def test_a_training_row_holds_every_column():
    line = training_line("BERT-base", 256, "layers", Outcome("ok", values=SPEED))
    found = dict(zip(TRAINING, cells(line), strict=True))
    assert found["examples/s"] == "4,321"
    assert found["MFU"] == "34.6%"
    assert found["ms/step"] == "50.0"
    assert found["peak GB"] == "9.9"
    on_cpu = training_line("toy", 8, "eager", Outcome("ok", values=SPEED | {"peak_gb": None}))
    assert cells(on_cpu)[9] == "–"


@pytest.mark.parametrize(
    ("ours", "wanted"),
    [
        ({"eager": 4000.0, "graphs": 6000.0}, ["4,000", "2.00", "6,000 (graphs)", "3.00"]),
        ({"graphs": 6000.0}, ["–", "–", "6,000 (graphs)", "3.00"]),
        ({}, ["–", "–", "–", "–"]),
    ],
)
def test_a_trainer_row_holds_ratios_where_there_is_something_to_compare(ours, wanted):
    values = {
        "examples_per_second": 2000.0,
        "micro": 128,
        "padding_efficiency": 0.4,
        "tried": {"64": 1500.0, "128": 2000.0},
        "peak_gb": 20.0,
    }
    line = trainer_line("BERT-base", 256, Outcome("ok", values=values), ours)
    assert cells(line)[2:6] == ["2,000", "128", "40.0%", "64: 1,500, 128: 2,000"]
    assert cells(line)[7:] == wanted


@pytest.mark.parametrize(
    ("batch", "fast", "tried"),
    [
        (256, (), [32, 64, 128, 256]),
        (4096, (128, 256), [128, 256]),
        (32, (128, 256), [32]),
        (8, (), []),
    ],
)
def test_the_trainer_tries_micro_batches_that_divide_and_were_fast(batch, fast, tried):
    assert micro_batches((32, 64, 128, 256), batch, fast) == tried


@pytest.mark.parametrize(
    ("part", "state", "ok", "status"),
    [
        ("conformance", "ok", True, 0),
        ("conformance", "ok", False, 1),
        ("conformance", "cannot", None, 0),
        ("conformance", "skipped", None, 1),
        ("training", "skipped", None, 0),
        ("trainer", "failed", None, 1),
    ],
)
def test_the_exit_status_is_that_of_the_worst_row(part, state, ok, status):
    good = {"part": "machine", "state": "ok"}
    assert exit_status([good, {"part": part, "state": state, "ok": ok}, good]) == status


def test_reasons_fit_into_a_cell():
    assert one_line("a  |\n b") == "a / b"
    assert len(one_line("x" * 500)) == 160
    log = "start\nRuntimeError: no kernel image\n  at exit: bye\n"
    assert last_words(log) == "RuntimeError: no kernel image"
    assert last_words("") == "it said nothing"


def test_a_worker_is_a_rank_only_where_it_shall_be_one(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "7")
    assert "RANK" not in worker_environment(tmp_path, False, 1)
    rank = worker_environment(tmp_path, True, 1)
    assert (rank["RANK"], rank["WORLD_SIZE"]) == ("0", "1")
    assert rank["MASTER_PORT"] != "0"


@pytest.fixture
def bench(tmp_path):
    made = Bench("cpu", gpu.SMALL, Deadline(60), tmp_path, Report(tmp_path / "out.json", {}))
    made.machine = {"versions": VERSIONS, "bf16": True, "peaks": {"bf16": 1e12}, "memory": 1e9}
    return made


def test_every_engine_is_checked_in_every_precision(bench):
    jobs = conformance_jobs(bench)
    pairs = {(engine, precision) for engine, precision, _ in jobs}
    assert len(pairs) == len(jobs) == 17
    by_pair = {(engine, precision): job for engine, precision, job in jobs}
    ours = by_pair["ZeRO 3", "bf16"]
    assert isinstance(ours, Worker)
    assert (ours.job["zero"], ours.job["precision"], ours.job["compile"]) == (3, "bf16", "none")
    assert by_pair["DDP, graphs", "bf16"] == Outcome("cannot", "CUDA graphs need a GPU")


def test_what_is_not_installed_is_said(bench):
    bench.machine = {**bench.machine, "versions": VERSIONS | {"deepspeed": None}}
    jobs = {(e, p): job for e, p, job in conformance_jobs(bench)}
    assert jobs["ZeRO 0", "fp32"] == Outcome("cannot", "deepspeed is not installed")
    assert isinstance(jobs["DDP", "fp32"], Worker)
    bench.machine = {**bench.machine, "versions": {"torch": "2"}}
    missing = Outcome("cannot", "transformers is not installed")
    assert training_jobs(bench)["toy", "eager"] == missing


def pretend(monkeypatch, script):
    """Let workers run a script instead of the real one."""
    real = gpu.subprocess.Popen

    def popen(command, **options):
        return real([sys.executable, "-c", script], **options)

    monkeypatch.setattr(gpu.subprocess, "Popen", popen)


def said(**message):
    return f"print({json.dumps(json.dumps(message))}, flush=True)\n"


ROW = {"row": "8", "state": "ok", "values": {"speed": 1}}


def test_a_worker_begins_when_it_is_told(tmp_path, monkeypatch):
    go = "import sys\nassert sys.stdin.readline() == 'go\\n'\n"
    script = "print('noise')\n" + said(ready=True) + go + said(**ROW)
    pretend(monkeypatch, script + said(row="32", state="failed", reason="why"))
    worker = Worker("w", {"job": "train"}, ["8", "32"])
    worker.start(tmp_path, 1)
    worker.wait_ready(30)
    found = list(worker.outcomes(Deadline(30)))
    assert found == [("8", Outcome("ok", "", {"speed": 1})), ("32", Outcome("failed", "why"))]


def test_the_rows_of_a_process_that_breaks_say_how(tmp_path, monkeypatch):
    pretend(monkeypatch, said(**ROW) + "raise ValueError('broken')")
    worker = Worker("w", {"job": "train"}, ["8", "32"])
    worker.start(tmp_path, 1)
    worker.wait_ready(30)
    (first, second) = worker.outcomes(Deadline(30))
    assert first[1].state == "ok"
    assert second == ("32", Outcome("failed", "exit status 1: ValueError: broken"))


@pytest.mark.parametrize(
    ("limit", "left", "outcome"),
    [(0.5, 60, Outcome("failed", "took longer than 0 s")), (60, 0.5, SKIPPED)],
)
def test_a_process_that_hangs_is_ended(tmp_path, monkeypatch, limit, left, outcome):
    pretend(monkeypatch, "import time\ntime.sleep(60)")
    worker = Worker("w", {"job": "trainer"}, ["8"])
    worker.start(tmp_path, 1)
    start = time.monotonic()
    assert list(worker.outcomes(Deadline(left), limit)) == [("8", outcome)]
    assert time.monotonic() - start < 30


def test_what_is_not_prepared_in_time_is_given_up(tmp_path, monkeypatch):
    pretend(monkeypatch, "import time\ntime.sleep(60)")
    worker = Worker("w", {"job": "train"}, ["8"])
    worker.start(tmp_path, 1)
    worker.wait_ready(0.5)
    ((_, outcome),) = worker.outcomes(Deadline(60))
    assert outcome.state == "skipped"


def test_the_report_is_written_with_every_row(bench):
    bench.report.add("training", Outcome("failed", "why"), "first\nlast", global_batch=8)
    bench.report.add("training", Outcome("ok", values={"mfu": 0.5}), "said", global_batch=32)
    rows = json.loads(bench.report.out.read_text())["rows"]
    assert rows[0]["log"] == ["first", "last"]
    assert rows[1] == {
        "part": "training",
        "global_batch": 32,
        "state": "ok",
        "reason": "",
        "mfu": 0.5,
    }


def test_without_a_gpu_one_line_says_so(monkeypatch):
    monkeypatch.setattr(
        gpu, "measure_machine", lambda bench: Outcome("cannot", "torch sees no GPU")
    )
    result = CliRunner().invoke(gpu.main, [])
    assert result.exit_code == 2
    assert result.output == "benchmarks.gpu: torch sees no GPU\n"
