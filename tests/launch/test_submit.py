from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.config import load_config
from training.rundir import RunDir, read_json, write_json

from . import fakes
from .commandline import (
    LINE,
    ROOT,
    TRAIN,
    Answer,
    assert_refused,
    clean_environment,
    glueline,
    tree,
)

HEAVY = ("torch", "transformers", "datasets", "deepspeed", "accelerate", "wandb", "pandas")

Type = Callable[[str], Answer]


def only_run(here: Path) -> RunDir:
    (path,) = [p for p in (here / "runs").iterdir() if p.name[0] != "."]
    return RunDir(path)


def finish(run: RunDir, end: str | None) -> None:
    """Write what a run leaves behind that ended so; None: its results."""
    if end is None:
        write_json(run.results, {"run_id": run.run_id})
        return
    run.attempt(0).mkdir(parents=True, exist_ok=True)
    write_json(run.node(0, 0), {"host": "n1", "end": end})


def test_a_submission_writes_the_run_directory(here: Path, job: Any, typed: Type) -> None:
    done = typed(LINE + " --nodes 2")
    assert done.status == 0, done.err
    run = only_run(here)
    assert tree(run.path) == {
        "config.yaml",
        "plan.json",
        "manifest.json",
        "submission.sh",
        "command.sh",
        "jobs.json",
        "submitit",
    }
    assert tree(here / "runs") == {run.run_id, *(f"{run.run_id}/{p}" for p in tree(run.path))}
    config = load_config(run.config)
    assert config.run_id() == run.run_id and run.run_id.startswith("mine-tiny-b8-s42-")
    assert "auto" not in (config.cluster.executor, config.engine.device, config.engine.precision)
    plan = read_json(run.plan) or {}
    assert plan["rows"] == {"train": 72, "validation": 8} and plan["world_size"] == 2
    assert str(run.path) in run.submission.read_text()
    assert run.command.stat().st_mode & 0o111
    (entry,) = read_json(run.jobs)["jobs"]  # type: ignore[index]
    assert entry["job_id"] == "101" and entry["executor"] == "slurm"
    assert entry["first_attempt"] == 0 and entry["time"] <= time.time() and entry["host"]
    assert run.run_id in done.out and str(run.path) in done.out and "status" in done.out


def test_the_manifest(here: Path, job: Any, typed: Type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hush-1")
    monkeypatch.setenv("HF_TOKEN", "hush-2")
    assert typed(LINE).status == 0
    run = only_run(here)
    manifest = read_json(run.manifest)
    assert manifest is not None
    assert {"WANDB_API_KEY", "HF_TOKEN"} <= set(manifest["secrets_present"])
    assert manifest["versions"]["torch"] and manifest["python"]
    (data,) = manifest["data"]
    assert data["path"] == str(here / "train.csv") and data["bytes"] == len(TRAIN)
    assert len(data["sha256"]) == 64
    for path in run.path.rglob("*"):
        assert path.is_dir() or "hush-" not in path.read_text()


def test_a_private_run_is_readable_by_its_owner_only(here: Path, job: Any, typed: Type) -> None:
    assert typed(LINE + " --set cluster.private=true").status == 0
    run = only_run(here)
    assert [p.stat().st_mode & 0o077 for p in (run.path, run.cache)] == [0, 0]


def test_json(here: Path, job: Any, typed: Type) -> None:
    done = typed(LINE + " --json")
    value = json.loads(done.out)
    assert value["run_id"] == only_run(here).run_id and value["job_id"] == "101"
    assert value["path"] == str(only_run(here).path) and value["plan"]["world_size"] == 1


def test_wait_returns_the_exit_status_of_the_run(here: Path, job: Any, typed: Type) -> None:
    assert typed(LINE + " --wait").status == 1
    assert [r.path for r in job.followed] == [only_run(here).path]


@pytest.mark.parametrize("state", ["running", "queued"])
def test_the_same_line_again_tells_how_to_follow(
    here: Path, job: Any, typed: Type, state: str
) -> None:
    typed(LINE)
    before = only_run(here).config.read_text()
    job.job_state = state
    done = typed(LINE)
    assert done.status == 0 and state in done.out and "status" in done.out
    assert len(job.submitted) == 1 and only_run(here).config.read_text() == before
    assert typed(LINE + " --wait").status == 1 and len(job.followed) == 1


def test_the_same_line_again_tells_where_the_results_are(here: Path, job: Any, typed: Type) -> None:
    typed(LINE)
    job.job_state = "gone"
    finish(only_run(here), None)
    done = typed(LINE)
    assert done.status == 0 and str(only_run(here).results) in done.out
    assert len(job.submitted) == 1


def test_rows_that_changed_are_not_the_same_line(here: Path, job: Any, typed: Type) -> None:
    typed(LINE)
    job.job_state = "gone"
    finish(only_run(here), None)
    (here / "train.csv").write_text(TRAIN + "one more,good\n")
    done = typed(LINE)
    assert done.status == 2 and "held other rows" in done.err
    assert len(job.submitted) == 1


def test_files_take_the_place_of_a_tasks_own_rows(here: Path, job: Any, typed: Type) -> None:
    line = "--model tiny --task demo --train-file train.csv --text-columns text --dry-run --json"
    done = typed(line)
    assert done.status == 0, done.err
    assert json.loads(done.out)["plan"]["rows"]["train"] == 72


def test_a_column_name_that_stands_twice(here: Path, job: Any, typed: Type) -> None:
    (here / "twice.csv").write_text("text,text,label\na,b,c\n")
    done = typed("--model tiny --train-file twice.csv --text-columns text --label-column label")
    assert done.status == 2 and "twice" in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize(("end", "word"), [("failed", "failed"), ("interrupted", "interrupted")])
def test_a_failed_run_is_resumed_by_the_line_that_is_printed(
    here: Path, job: Any, typed: Type, end: str, word: str
) -> None:
    typed(LINE)
    run = only_run(here)
    job.job_state = "gone"
    finish(run, end)
    write_json(run.request, {"stop": True})
    done = typed(LINE)
    assert done.status == 2 and word in done.err and len(done.err.splitlines()) == 1
    line = done.err.partition("--resume")[2].strip()
    assert line == run.run_id
    done = typed("--resume " + line)
    assert done.status == 0, done.err
    jobs = read_json(run.jobs)["jobs"]  # type: ignore[index]
    assert [(j["job_id"], j["first_attempt"]) for j in jobs] == [("101", 0), ("102", 1)]
    assert not run.request.exists()


def test_resume_takes_a_path_and_other_runs_folders(here: Path, job: Any, typed: Type) -> None:
    typed(LINE + " --runs 'my runs'")
    job.job_state = "gone"
    (path,) = [p for p in (here / "my runs").iterdir() if p.name[0] != "."]
    finish(RunDir(path), "failed")
    again = typed(LINE + " --runs 'my runs'").err.partition("glueline submit ")
    printed = again[2] or typed(LINE + " --runs 'my runs'").err.partition(" --resume ")[2]
    assert "'" in printed and "my runs" in printed
    assert typed(f"--resume {shlex.quote(str(path))}").status == 0


def test_resume_of_what_cannot_be_resumed(here: Path, job: Any, typed: Type) -> None:
    typed(LINE)
    run = only_run(here)
    done = typed(f"--resume {run.run_id}")
    assert done.status == 2 and "is running" in done.err and "cancel" in done.err
    done = typed(f"--resume {run.run_id[:-2]}")
    assert done.status == 2 and run.run_id in done.err
    job.job_state = "gone"
    finish(run, None)
    done = typed(f"--resume {run.run_id}")
    assert done.status == 0 and "finished" in done.out
    assert len(job.submitted) == 1


def test_a_name_of_ones_own(here: Path, job: Any, typed: Type) -> None:
    assert typed(LINE + " --name first.try").status == 0
    assert only_run(here).run_id == "first.try"
    done = typed(LINE + " --name first.try --seed 3")
    assert done.status == 2 and "train.seed is 42 there, 3 here" in done.err
    assert typed(LINE + " --name first.try").status == 0 and len(job.submitted) == 1


def test_slurm_refuses(here: Path, job: Any, typed: Type) -> None:
    job.refusal = "sbatch: error: Batch job submission failed:\nInvalid account or partition"
    before = tree(here)
    done = typed(LINE + " --account nobody")
    assert done.status == 2
    # A clone in /tmp has a note of its own.
    said = [line for line in done.err.splitlines() if not line.startswith("note: the nodes may")]
    assert said == [
        "error: sbatch: error: Batch job submission failed: Invalid account or partition"
    ]
    assert tree(here) == before
    (here / "runs" / "other").mkdir(parents=True)
    before = tree(here)
    assert typed(LINE + " --account nobody").status == 2
    assert tree(here) == before


def test_a_folder_that_is_no_run(here: Path, job: Any, typed: Type) -> None:
    (here / "runs" / "taken").mkdir(parents=True)
    done = typed(LINE + " --name taken")
    assert done.status == 2 and "holds no run" in done.err


def test_a_dry_run_touches_nothing(here: Path, job: Any, typed: Type) -> None:
    before = tree(here)
    done = typed(LINE + " --dry-run --lr 1e-4")
    assert done.status == 0, done.err
    assert tree(here) == before and not job.submitted
    for word in (
        "optim.lr",
        "0.0001",
        "--lr",
        "task mine",
        "model tiny",
        "# batch of",
        "torch.distr",
    ):
        assert word in done.out, word
    assert "[default" not in done.out


def test_a_dry_run_without_data_says_so(here: Path, job: Any, typed: Type) -> None:
    done = typed("--task rte --model tiny --dry-run --json --tracker none")
    plan = json.loads(done.out)["plan"]
    assert plan["rows"] is None and plan["steps"] is None and plan["lengths_from"].startswith("unk")


BAD = [
    ("--task mnlo", ["unknown task 'mnlo'", "'mnli'"]),
    ("--task nowhere.yaml", ["nowhere.yaml does not exist"]),
    ("", ["which task?", "--task"]),
    ("--task rte --model minlm", ["unknown model 'minlm'", "'minilm'", "ORG/minlm"]),
    ("--task rte --model ./none", ["no such folder"]),
    ("--task rte --model empty", ["no config.json"]),
    ("--task mine.yaml --model bare", ["no tokenizer"]),
    ("--task mine.yaml --model half", ["no weights"]),
    ("--task rte --modle tiny", ["unknown flag '--modle'", "'--model'"]),
    ("--task rte --lr", ["--lr"]),
    ("--task rte extra", ["extra"]),
    ("--task rte --set optim.lrr=1", ["unknown key 'optim.lrr'", "'lr'"]),
    ("--task rte --set optm.lr=1", ["unknown section 'optm'", "'optim'"]),
    ("--task rte --set lr=1", ["SECTION.KEY=VALUE"]),
    ("--task rte --schedule liner", ["unknown value 'liner'", "'linear'"]),
    ("--task rte --zero 4", ["--zero", "'4'"]),
    ("--task rte --global-batch 0", ["--global-batch must be at least 1, got 0"]),
    ("--task rte --global-batch 1.5", ["--global-batch", "a whole number"]),
    ("--task rte --lr -1", ["--lr must not be below 0"]),
    ("--task rte --lr nan", ["--lr"]),
    ("--task rte --epochs 0", ["--epochs must be above 0"]),
    ("--task rte --max-steps 0", ["--max-steps"]),
    ("--task rte --micro-tokens 0", ["--micro-tokens"]),
    ("--task rte --procs-per-node 0", ["--procs-per-node"]),
    ("--task rte --nodes 0", ["--nodes"]),
    ("--task rte --nodes 2", ["--executor local has one node"]),
    ("--task rte --warmup-ratio 2", ["--warmup-ratio"]),
    ("--task rte --seed -1", ["--seed"]),
    ("--task rte --time soon", ["--time 'soon'"]),
    ("--task rte --set model.dropout=1.5", ["model.dropout"]),
    ("--task rte --precision fp16 --device cpu", ["fp16 does not run on CPU"]),
    ("--task rte --offload all", ["--offload all needs --zero"]),
    ("--task ax", ["only predicted"]),
    ("--task rte --data nowhere", ["--data nowhere"]),
    ("--task rte --data empty", ["empty", "glue"]),
    ("--task rte --cluster nosite", ["unknown site profile 'nosite'"]),
    ("--task mine.yaml --name 'a b'", ["--name 'a b'"]),
    ("--task mine.yaml --name a/b", ["--name 'a/b'"]),
    ("--task mine.yaml --name '$(id)'", ["--name '$(id)'"]),
    ("--task mine.yaml --name '\"x'", ["--name"]),
    ("--task mine.yaml --name ..", ["--name '..'"]),
    ("--task mine.yaml --text-columns txt", ["'txt'", "'text'"]),
    ("--task mine.yaml --label-column lable", ["'lable'", "'label'"]),
    ("--task mine.yaml --labels good,ugly", ["bad"]),
    ("--task mine.yaml --max-length 64 --micro-tokens 5", ["tokens", "--micro-tokens is 5"]),
    ("--task mine.yaml --set task.validation=dev --set task.holdout=0", ["'dev'"]),
    ("--train-file no.csv --text-columns text --label-column label", ["no such file"]),
    ("--train-file empty.csv --text-columns text --label-column label", ["empty.csv"]),
    ("--train-file train.csv --text-columns text", ["no label column", "--label-column"]),
    ("--validation-file train.csv --task rte", ["--train-file"]),
    ("--task mine.yaml --runs train.csv/runs", ["cannot write to the runs folder"]),
    ("--task mine.yaml --runs /proc/nowhere", ["cannot write to the runs folder"]),
    ("--resume nothing", ["no run 'nothing'"]),
    ("--task rte --sbatch '=x'", ["--sbatch"]),
]


@pytest.mark.parametrize(("line", "words"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(
    here: Path, typed: Type, line: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = fakes.executor(monkeypatch)
    (here / "empty").mkdir()
    (here / "empty.csv").write_text("text,label\n")
    for name, files in {"bare": ("config.json",), "half": ("config.json", "vocab.txt")}.items():
        (here / name).mkdir()
        for file in files:
            (here / name / file).write_text("{}")
    before = tree(here)
    model = "" if "--model" in line or "--resume" in line else "--model tiny"
    rest = "" if "--resume" in line else "--executor local --tracker none"
    done = typed(f"{line} {model} {rest}" if line != "--task rte --lr" else line)
    assert done.status == 2, (done.out, done.err)
    assert done.err.startswith("error: ") and len(done.err.splitlines()) == 1, done.err
    for word in words:
        assert word in done.err, (word, done.err)
    assert tree(here) == before and not job.submitted


def test_a_split_that_is_empty_or_lacks_labels(here: Path, job: Any, typed: Type) -> None:
    (here / "gaps.csv").write_text("text,label\nfine,good\nawful,\nbad,bad\n")
    before = tree(here)
    done = typed("--train-file gaps.csv --text-columns text --label-column label --model tiny")
    assert done.status == 2 and "label" in done.err and len(done.err.splitlines()) == 1
    assert tree(here) == before


# From here on as a person types it, in processes of their own.


def test_no_sbatch_on_the_path(here: Path) -> None:
    before = tree(here)
    args = ["--task", "mine.yaml", "--model", "tiny", "--tracker", "none"]
    done = glueline("submit", *args, cwd=here, env={"PATH": "/nonexistent"})
    assert_refused(done, "sbatch", "--executor local")
    assert tree(here) == before


def test_a_dry_run_loads_nothing_heavy(here: Path) -> None:
    code = (
        "import sys; from launch.submit import submit\n"
        "submit.main(sys.argv[1:], standalone_mode=False)\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    args = [*shlex.split(LINE), "--executor", "local", "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=here,
        env=clean_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"
    assert "torch.distributed.run" in done.stdout and "training.train" in done.stdout


@pytest.mark.data
@pytest.mark.minilm
def test_a_dry_run_of_mnli_with_minilm(here: Path, data_dir: Path) -> None:
    args = ["--executor", "local", "--procs-per-node", "2", "--task", "mnli", "--model", "minilm"]
    args += ["--data", str(data_dir), "--dry-run", "--json", "--micro-tokens", "512"]
    args += ["--global-batch", "64", "--zero", "2"]
    before = tree(here)
    done = glueline("submit", *args, cwd=here)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)["plan"]
    assert plan["lengths_from"].startswith("sampled from 1000 rows")
    assert plan["micro_batches"] > 1 and plan["steps"] > 0 and plan["longest"] > 20
    assert {"validation_matched", "validation_mismatched"} <= set(plan["rows"])
    assert tree(here) == before


@pytest.mark.data
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--subset", "mnlo"], ["mnlo", "mnli"]),
        (["--set", "task.validation=validaton_matched"], ["validaton_matched"]),
        (["--text-columns", "premis,hypothesis"], ["premis"]),
        (["--labels", "yes,no"], ["label"]),
    ],
)
def test_data_that_lacks_what_is_asked(
    here: Path, data_dir: Path, flags: list[str], words: list[str]
) -> None:
    args = ["--executor", "local", "--task", "mnli", "--model", "tiny", "--data", str(data_dir)]
    before = tree(here)
    assert_refused(glueline("submit", *args, *flags, cwd=here), *words)
    assert tree(here) == before
