import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def prepare(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "launch" / "prepare.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_demo_with_preview(tmp_path):
    done = prepare("--task", "demo", "--model", "tiny", "--runs", str(tmp_path), "--preview", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("first_note:") == 2
    assert "labels: mammal, fish, bird" in done.stdout
    assert "train: 4000 rows" in done.stdout
    folder = Path(done.stdout.strip().rpartition("tokenised data: ")[2])
    assert folder.parent == tmp_path / ".cache" / "tokens"
    assert (folder / "manifest.json").is_file()
    again = prepare("--task", "demo", "--model", "tiny", "--runs", str(tmp_path), "--json")
    answer = json.loads(again.stdout)
    assert answer["tokens"] == str(folder)
    assert answer["splits"]["train"]["rows"] == 4000


def test_wrong_requests_are_one_line(tmp_path):
    for words, reason in (
        (("--task", "demoo"), "did you mean 'demo'"),
        (("--task", "rte", "--model", "tiny", "--data", str(tmp_path)), "no folder 'glue'"),
        (("--task", "demo", "--model", "tiny", "--text-columns", "x"), "no column 'x'"),
    ):
        done = prepare(*words, "--runs", str(tmp_path / "runs"))
        assert done.returncode == 2
        assert reason in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()
