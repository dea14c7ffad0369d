from pathlib import Path

import pytest

from slurm.cluster import BadRequest, ClusterConfig, VirtualCluster, default_state
from slurm.cluster.__main__ import main


@pytest.mark.parametrize(
    "wrong",
    [
        {"nodes": 0},
        {"nodes": 65},
        {"cpus": 0},
        {"gpus": -1},
        {"memory": 0},
        {"proctrack": "cgroup2"},
        {"max_array": 1},
        {"slurmd_timeout": 1},
        {"extra_conf": ("A=1\nB=2",)},
    ],
)
def test_impossible_values_are_refused_by_the_option_s_name(wrong: dict) -> None:
    (name,) = wrong
    option = {"extra_conf": "--conf"}.get(name, "--" + name.replace("_", "-"))
    with pytest.raises(BadRequest, match=option):
        ClusterConfig(**wrong)


def test_the_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLUELINE_CLUSTER", "/somewhere/else")
    assert default_state() == Path("/somewhere/else")
    monkeypatch.delenv("GLUELINE_CLUSTER")
    assert ClusterConfig().state == Path("/var/tmp/glueline-cluster")


def test_env_names_the_asked_shares(tmp_path: Path) -> None:
    config = ClusterConfig(state=tmp_path, share=(Path("/a/b/../c"), Path("/d")))
    assert VirtualCluster(config).env() == {
        "SLURM_CONF": f"{tmp_path}/slurm.conf",
        "GLUELINE_SHARED": "/a/c:/d",
    }


@pytest.mark.parametrize(
    ("words", "code"), [(["env"], 1), (["status"], 1), (["up", "--nodes", "0"], 2)]
)
def test_errors_are_one_line_and_an_exit_code(
    words: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--state", str(tmp_path)]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1


def test_a_broken_record_does_not_end_in_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cluster.json").write_text("{")
    assert main(["env", "--state", str(tmp_path)]) == 1
    assert "cluster.json" in capsys.readouterr().err
