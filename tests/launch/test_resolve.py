from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launch import checks, machine, presets
from launch.flags import Override, Request
from launch.resolve import Resolved, known_runs, load_task, resolve, runs_folder
from training.config import UsageError

from . import fakes

CSV = "text,label\nfine,good\nawful,bad\n"


@pytest.fixture(autouse=True)
def here(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that counts as shared, on a machine without GPUs."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(workplace / "config"))
    monkeypatch.setattr(machine, "local_gpus", lambda: 0)
    monkeypatch.setattr(machine, "cores", lambda: 6)
    fakes.slurm(monkeypatch)
    return workplace


def asked(*flags: tuple[str, Any], sets: tuple[tuple[str, str], ...] = (), **more: Any) -> Resolved:
    names: dict[str, Any] = {"task": "mnli", "model": "minilm"} | more
    request = Request(
        **names,
        flags=tuple(Override(k, v, f"--{k.split('.')[1].replace('_', '-')}") for k, v in flags),
        sets=tuple(Override(k, v, "--set") for k, v in sets),
    )
    return resolve(request)


LOCAL = ("cluster.executor", "local")


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_precedence_and_origins(here: Path) -> None:
    task = write(
        here / "mine.yaml",
        "task:\n  hub: org/set\n  text: [a]\n  label: label\n  max_length: 60\n"
        "defaults:\n  optim.lr: 3.0e-4\n  train.seed: 7\n  train.epochs: 9\n  optim.clip: 2\n",
    )
    site = write(
        here / "site.yaml",
        "cluster:\n  account: abc\n  time: 90\ndefaults:\n  train.seed: 8\n  optim.clip: 3\n"
        "  train.epochs: 4\n",
    )
    resolved = asked(
        ("optim.clip", "4"),
        ("train.epochs", "2"),
        task=task,
        model="tiny",
        cluster=site,
        sets=(("train.epochs", "1"),),
    )
    config, origins = resolved.config, resolved.origins
    assert config.task.name == "mine" and origins["task.name"] == "task mine"
    assert config.model.architecture == "bert" and origins["model.architecture"] == "model tiny"
    # tiny.yaml sets the rate too: the task's wins over the model's.
    assert config.optim.lr == 3e-4 and origins["optim.lr"] == "task mine"
    assert config.train.seed == 8 and origins["train.seed"] == "profile site"
    assert config.optim.clip == 4 and origins["optim.clip"] == "--clip"
    assert config.train.epochs == 1 and origins["train.epochs"] == "--set"
    assert config.cluster.account == "abc" and config.cluster.time_minutes == 90
    assert "optim.beta1" not in origins


def test_the_same_request_is_the_same_run() -> None:
    assert asked(LOCAL).config.run_id() == asked(LOCAL).config.run_id()
    assert asked(LOCAL, ("train.seed", "1")).config.run_id() != asked(LOCAL).config.run_id()


def test_default_model_is_bert() -> None:
    config = asked(model=None).config
    assert (config.model.name, config.model.hub) == (
        "bert-base-uncased",
        "google-bert/bert-base-uncased",
    )


@pytest.mark.parametrize("kind", ["tasks", "models", "clusters"])
def test_every_preset_is_valid(kind: str) -> None:
    load = {
        "tasks": presets.task_preset,
        "models": presets.model_preset,
        "clusters": presets.cluster_preset,
    }[kind]
    assert presets.names(kind)
    for name in presets.names(kind):
        assert load(name).values


def test_every_task_loads() -> None:
    for name in presets.names("tasks"):
        assert load_task(name).name == name


def test_a_model_of_the_hub_and_a_local_one(here: Path) -> None:
    config = asked(model="Some-Org/Enc_v1.5").config
    assert (config.model.hub, config.model.name) == ("Some-Org/Enc_v1.5", "enc-v1.5")
    write(here / "my model" / "config.json", "{}")
    config = asked(model="./my model").config
    assert (config.model.path, config.model.name) == (str(here / "my model"), "my-model")


@pytest.mark.parametrize("name", ["bert-base-cased", "roberta-base", "distilbert-base-uncased"])
def test_common_models_go_by_their_bare_name(name: str) -> None:
    assert "/" in str(presets.model_preset(name).values["model.hub"])


def test_a_model_preset_can_be_changed() -> None:
    resolved = asked(sets=(("model.dropout", "0"), ("model.layers", "3")))
    assert resolved.config.model.dropout == 0 and resolved.config.model.layers == 3


def test_files_make_a_task(here: Path) -> None:
    write(here / "reviews 1.csv", CSV)
    resolved = asked(
        ("task.text", "text"),
        ("task.label", "label"),
        LOCAL,
        task=None,
        files={"train": ("reviews 1.csv",)},
    )
    task = resolved.config.task
    assert task.name == "reviews-1"
    assert task.files == {"train": (str(here / "reviews 1.csv"),)}
    assert task.holdout == 0.1 and task.validation_splits == ("validation",)
    assert "held out" in resolved.origins["task.holdout"]


def test_files_are_not_what_a_task_says_of_its_own_rows(here: Path) -> None:
    write(here / "mine.csv", CSV)
    flags = (("task.text", "text"), ("task.label", "label"), LOCAL)
    about = "task:\n  description: reviews of shops\n"
    write(here / "bare.yaml", about)
    write(here / "full.yaml", f"{about}  files: {{train: other.csv}}\n")
    for task, said in (("sst2", ""), ("demo", ""), ("./full.yaml", ""), ("./bare.yaml", "reviews")):
        resolved = asked(*flags, task=task, files={"train": ("mine.csv",)})
        assert resolved.config.task.description.partition(" ")[0] == said, task
        told = resolved.origins["task.description"]
        assert told == ("task bare" if said else "--train-file takes its place")


def test_files_of_a_task_file_are_beside_it(here: Path) -> None:
    task = write(
        here / "sub" / "t.yaml",
        "task:\n  text: [text]\n  label: label\n  files: {train: a.csv, validation: [b.csv]}\n",
    )
    files = load_task(task).files
    assert files == {
        "train": (str(here / "sub" / "a.csv"),),
        "validation": (str(here / "sub" / "b.csv"),),
    }


def test_a_dataset_of_the_hub_makes_a_task() -> None:
    flags = (("task.hub", "org/Set"), ("task.subset", "x"), ("task.text", "a"), ("task.label", "y"))
    assert asked(*flags, task=None).config.task.name == "set-x"


def test_auto_on_slurm_with_cpus() -> None:
    resolved = asked(("cluster.nodes", "4"))
    config, origins = resolved.config, resolved.origins
    assert config.cluster.executor == "slurm" and "sbatch" in origins["cluster.executor"]
    assert (config.engine.device, config.engine.precision) == ("cpu", "fp32")
    assert (config.cluster.procs_per_node, config.cluster.gpus_per_node) == (1, 0)
    assert config.cluster.cpus_per_node == 8 and config.batch.micro_tokens == 1024
    assert "partition cpu" in origins["engine.device"]


def test_auto_on_slurm_with_gpus() -> None:
    config = asked(("cluster.partition", "gpu")).config
    assert (config.engine.device, config.engine.precision) == ("cuda", "bf16")
    assert (config.cluster.procs_per_node, config.cluster.gpus_per_node) == (4, 4)
    assert config.cluster.cpus_per_node == 32 and config.batch.micro_tokens == 16384
    part = asked(("cluster.partition", "gpu"), ("cluster.procs_per_node", "2")).config.cluster
    assert (part.gpus_per_node, part.cpus_per_node) == (2, 16)


def test_commands_that_look_find_the_runs_where_submit_puts_them(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GLUELINE_RUNS", raising=False)
    monkeypatch.setattr(presets, "slurm_cluster", lambda: "hpc1")
    assert known_runs(None) == known_runs(None, "a") == here / "runs"
    scratch = here / "scratch"
    profile = f"slurm_cluster: hpc1\nruns: {scratch}\n"
    write(here / "config/glueline/clusters/hpc1.yaml", profile)
    assert known_runs(None) == known_runs(None, "a") == scratch
    assert known_runs("other", "a") == here / "other"
    # Runs of this machine have no profile.
    (here / "runs" / "local").mkdir(parents=True)
    assert known_runs(None, "local") == here / "runs" and known_runs(None, "a") == scratch
    assert not capsys.readouterr().err
    assert known_runs(None) == scratch and "--runs runs" in capsys.readouterr().err
    monkeypatch.setenv("GLUELINE_RUNS", "mine")
    assert known_runs(None, "local") == here / "mine"


def test_a_profile_is_never_dropped_because_slurm_is_slow(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from launch import doctor_login
    from slurm import scontrol

    asked_for: list[float] = []

    def silent(*command: str, seconds: float) -> str:
        asked_for.append(seconds)
        raise scontrol.Silent("scontrol took too long")

    write(here / "config/glueline/clusters/hpc1.yaml", f"slurm_cluster: hpc1\nruns: {here}/far\n")
    tool = here / "bin" / "scontrol"
    write(tool, "#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    monkeypatch.delenv("GLUELINE_RUNS", raising=False)
    monkeypatch.setattr(scontrol, "ask", silent)
    monkeypatch.setattr(doctor_login, "slurm_conf", lambda: "")
    presets.slurm_cluster.cache_clear()
    with pytest.raises(UsageError, match=r"which cluster this is.*--cluster NAME \(hpc1\)"):
        presets.chosen_cluster(None)
    assert asked_for == [5.0, 15.0]
    assert known_runs(None) == here / "runs" and "--runs DIR" in capsys.readouterr().err
    monkeypatch.setattr(doctor_login, "slurm_conf", lambda: "\nClusterName=hpc1\n")
    presets.slurm_cluster.cache_clear()
    assert presets.saved_cluster() == "hpc1" and known_runs(None) == here / "far"
    presets.slurm_cluster.cache_clear()


def test_a_runs_folder_holds_no_way_back(here: Path) -> None:
    """What nodes are told must not lead through folders that they need not have."""
    assert runs_folder("x/../y") == here.resolve() / "y"


def test_a_peer_is_one_rank() -> None:
    config = asked(("cluster.partition", "gpu"), ("engine.peer", "trainer")).config
    assert (config.cluster.procs_per_node, config.cluster.gpus_per_node) == (1, 1)


def test_auto_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    config = asked(LOCAL).config
    assert (config.engine.device, config.cluster.cpus_per_node) == ("cpu", 6)
    monkeypatch.setattr(machine, "local_gpus", lambda: 2)
    monkeypatch.setattr(machine, "gpu_has_bf16", lambda: False)
    config = asked(LOCAL).config
    assert (config.engine.device, config.engine.precision) == ("cuda", "fp16")
    assert config.cluster.procs_per_node == 2


def test_micro_tokens_hold_the_longest_input() -> None:
    resolved = asked(LOCAL, ("task.max_length", "2000"))
    assert resolved.config.batch.micro_tokens == 2000
    assert "longest" in resolved.origins["batch.micro_tokens"]


def test_a_cpu_partition_can_be_used_of_gpu_nodes() -> None:
    config = asked(("cluster.partition", "gpu"), ("engine.device", "cpu")).config
    assert config.cluster.gpus_per_node == 0 and config.cluster.procs_per_node == 1


def test_sbatch_flags_join_the_profiles(here: Path) -> None:
    write(here / "config/glueline/clusters/home.yaml", "cluster:\n  sbatch: {exclusive: ''}\n")
    resolved = asked(cluster="home", sbatch={"reservation": "r"})
    assert resolved.config.cluster.sbatch == {"exclusive": "", "reservation": "r"}
    assert resolved.config.cluster.profile == "home"


def test_a_key_of_a_mapping_can_be_set() -> None:
    sets = (("cluster.env.NCCL_DEBUG", "INFO"), ("cluster.env.A", "1"))
    assert asked(sets=sets).config.cluster.env == {"NCCL_DEBUG": "INFO", "A": "1"}


def test_settings_of_deepspeed_are_read_at_submission(here: Path) -> None:
    path = write(here / "my.yaml", "reduce_bucket_size: 1000\noverlap_comm: false\n")
    zero = (("engine.zero", "2"),)
    engine = asked(*zero, sets=(("engine.zero_config", path),)).config.engine
    assert engine.zero_settings == {"reduce_bucket_size": 1000, "overlap_comm": False}
    named = asked(*zero, sets=(("engine.zero_config", "default"),)).config.engine
    assert named.zero_settings["reduce_bucket_size"] == 50_000_000
    one = (("engine.zero_settings.reduce_bucket_size", "5e7"),)
    assert asked(*zero, sets=one).config.engine.zero_settings == {"reduce_bucket_size": 5e7}
    write(here / "my.yaml", "stage: 3\n")
    with pytest.raises(UsageError, match=r"my.yaml: leave out 'stage'"):
        asked(*zero, sets=(("engine.zero_config", path),))


def test_the_runs_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs_folder(None) == here / "runs"
    assert runs_folder(None, "/site/runs") == Path("/site/runs")
    monkeypatch.setenv("GLUELINE_RUNS", str(here / "mine"))
    assert runs_folder(None, "/site/runs") == here / "mine"
    assert runs_folder("typed", "/site/runs") == here / "typed"


def refused(match: str, *flags: tuple[str, Any], **more: Any) -> None:
    with pytest.raises(UsageError, match=match) as error:
        asked(*flags, **more)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("match", "flags"),
    [
        (r"unknown partition 'gpus': did you mean 'gpu'", [("cluster.partition", "gpus")]),
        (r"partition old is down", [("cluster.partition", "old")]),
        (r"--nodes 9: partition cpu has 4 nodes", [("cluster.nodes", "9")]),
        (r"allows 2:00:00", [("cluster.partition", "gpu"), ("cluster.time", "3:00:00")]),
        (
            r"--gpus-per-node 5: partition gpu has 4 a node",
            [("cluster.partition", "gpu"), ("cluster.gpus_per_node", "5")],
        ),
        (
            r"--procs-per-node 4 needs as many GPUs",
            [
                ("cluster.partition", "gpu"),
                ("cluster.gpus_per_node", "2"),
                ("cluster.procs_per_node", "4"),
            ],
        ),
        (r"--device cuda: partition cpu has no GPUs", [("engine.device", "cuda")]),
        (r"--cpus-per-node 99", [("cluster.cpus_per_node", "99")]),
        (r"fp16 does not run on CPU", [("engine.precision", "fp16")]),
        (r"--partition 'a b'", [("cluster.partition", "a b")]),
        (r"--account '\$\(id\)'", [("cluster.account", "$(id)")]),
        (r"--constraint", [("cluster.constraint", "a b; rm")]),
    ],
)
def test_what_slurm_cannot_do(match: str, flags: list[tuple[str, str]]) -> None:
    refused(match, *flags)


def test_no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.slurm(monkeypatch, answers=False)
    refused(r"sbatch is not on this machine.*--executor local")
    refused(r"--executor local", ("cluster.executor", "slurm"))
    assert asked(LOCAL).config.cluster.executor == "local"


def test_no_default_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.slurm(monkeypatch, (fakes.Partition("a"), fakes.Partition("b")))
    refused(r"no default partition: use --partition NAME \(a, b\)")


def test_a_runs_folder_that_nodes_cannot_see(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLUELINE_SHARED", "")
    refused(r"nodes cannot see the runs folder", runs="/tmp/runs")
    refused(r"nodes cannot see the runs folder", runs="/dev/shm/runs")
    (here / "link").symlink_to("/tmp")
    refused(r"nodes cannot see the runs folder", runs=str(here / "link" / "runs"))
    assert asked(LOCAL, runs="/tmp/runs").runs == Path("/tmp/runs")
    shared = asked(sets=(("cluster.shared", "/tmp/shared"),), runs="/tmp/shared/runs")
    assert shared.runs == Path("/tmp/shared/runs")


def test_file_systems_in_memory_are_a_nodes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLUELINE_SHARED")
    mounts = (
        "/dev/vda / ext4 rw 0 0\ntmpfs /scratch tmpfs rw 0 0\n"
        "nas:/x /scratch/nfs nfs rw 0 0\ntmpfs /with\\040space tmpfs rw 0 0\n"
    )
    assert machine.node_local(Path("/scratch/runs"), (), mounts)
    assert machine.node_local(Path("/with space/runs"), (), mounts)
    assert machine.node_local(Path("/scratch/nfs/runs"), (), mounts) is None
    assert machine.node_local(Path("/home/me"), (), mounts) is None
    assert machine.node_local(Path("/scratch/runs"), ("/scratch",), mounts) is None


def test_a_runs_folder_that_cannot_be_written(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(here / "file", "")
    refused(r"cannot write to the runs folder .*file is not a folder", runs=str(here / "file/runs"))
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    refused(r"cannot write to the runs folder .*no permission", runs=str(here / "runs"))


@pytest.mark.parametrize(
    ("match", "flags"),
    [
        (r"--zero 2 needs deepspeed", [("engine.zero", "2")]),
        (r"--tracker wandb needs the package wandb", []),
        (r"--tracker tensorboard needs the package", [("tracking.tracker", "tensorboard")]),
    ],
)
def test_packages_that_are_not_installed(
    match: str, flags: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_installed", lambda package: False)
    refused(match, LOCAL, *flags)


def test_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_has_bf16", lambda: False)
    refused(r"this CPU has no bf16: use --precision fp32", LOCAL, ("engine.precision", "bf16"))
    # Slurm's nodes may be other machines.
    assert asked(("engine.precision", "bf16")).config.engine.precision == "bf16"
    monkeypatch.setattr(machine, "local_gpus", lambda: 1)
    monkeypatch.setattr(machine, "gpu_has_bf16", lambda: False)
    refused(r"this GPU has no bf16: use --precision fp16", LOCAL, ("engine.precision", "bf16"))


def test_which_cpus_have_bf16() -> None:
    wide = "avx512f avx512bw avx512vl avx512dq"
    assert machine.cpu_has_bf16(f"processor : 0\nflags\t: fpu {wide}\n") is True
    assert machine.cpu_has_bf16("flags : fpu amx_bf16\n") is True
    assert machine.cpu_has_bf16("flags : fpu avx2 avx512f\n") is False
    assert machine.cpu_has_bf16("Features : fp asimd bf16\n") is True
    assert machine.cpu_has_bf16("Features : fp asimd\n") is False
    assert machine.cpu_has_bf16("model name: what\n") is None


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "task: {hub: o/s, text: [a], lable: b}",
            r"'task\.lable': did you mean 'label'",
        ),
        ("tsak: {}", r"unknown key 'tsak': did you mean 'task'"),
        ("task: {hub: o/s, text: [a, b, c], label: b}", r"1 or 2 text columns"),
        ("task: {hub: o/s, text: [a], label: b, metrics: [acuracy]}", r"did you mean 'accuracy'"),
        ("task: [", r"is not YAML"),
        ("- a", r"expected keys and values"),
        ("defaults: {optim.lrate: 1}\ntask: {hub: o/s}", r"unknown key 'optim\.lrate'"),
        ("task: {name: 'a b', hub: o/s, text: [a], label: b}", r"task\.name 'a b'"),
    ],
)
def test_a_wrong_task_file(here: Path, text: str, match: str) -> None:
    refused(match, LOCAL, task=write(here / "t.yaml", text))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("cluster.env.WANDB_API_KEY", r"put no secrets here"),
        ("cluster.env.A B", r"not the name of a variable"),
    ],
)
def test_the_environment_of_the_job(name: str, match: str) -> None:
    with pytest.raises(UsageError, match=match) as error:
        asked(LOCAL, sets=((name, "hush"),))
    assert "hush" not in str(error.value)


def test_secrets_are_refused_in_what_the_run_keeps() -> None:
    for setting in (
        ("cluster.setup", "export HF_TOKEN=hush"),
        ("cluster.sbatch.export", "HF_TOKEN=hush"),
    ):
        with pytest.raises(UsageError, match="HF_TOKEN") as error:
            asked(LOCAL, sets=(setting,))
        assert "hush" not in str(error.value)
