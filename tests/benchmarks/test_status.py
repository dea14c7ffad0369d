"""The benchmark of status runs, and a hundred runs are two questions to Slurm."""

from benchmarks.status import make_runs, measure, stand_in


def test_a_hundred_runs_are_two_questions(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.status.REPEATS", 1)
    make_runs(tmp_path / "runs", 100)
    environment = stand_in(tmp_path / "bin")
    _, calls = measure(["--runs", str(tmp_path / "runs")], environment)
    assert calls == {"squeue": 1, "sacct": 1}
    # What is finished is not asked about.
    finished = "mnli-bert-base-b32-s5-000005"
    _, calls = measure([finished, "--runs", str(tmp_path / "runs")], environment)
    assert not calls
