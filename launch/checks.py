"""What can be known before submission: names, packages, devices, places, rows, weights.

Each check raises `UsageError` with one line, or returns notes for the person who submits.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.config import ModelConfig, RunConfig, UsageError, option_name
from training.rundir import RUN_ID

from . import machine

if TYPE_CHECKING:
    from training.sources import SourceInfo

_WORD = re.compile(r"^[\w.,:+@%/-]+$")
_FEATURES = re.compile(r"^[\w.,:+@%/&|()\[\]*-]+$")
_OF_THE_PLAN = {
    **{name: f"--{name}" for name in ("partition", "account", "qos", "time", "nodes")},
    "constraint": "--constraint",
    "cpus-per-task": "--cpus-per-node",
}
"""Options of sbatch that have a flag of their own."""
_PLAIN = "letters, digits, '.', '_' and '-', beginning with a letter or digit"


def check_run_name(name: str) -> None:
    """Raise `UsageError` unless `--name` is one plain file name."""
    if not RUN_ID.match(name):
        raise UsageError(f"--name {name!r}: a run's name has only {_PLAIN} (at most 128)")


def check_names(config: RunConfig) -> None:
    """Raise `UsageError` for names that would break a path, a shell line or a batch script."""
    for key, name in (("task.name", config.task.name), ("model.name", config.model.name)):
        if not RUN_ID.match(name):
            raise UsageError(f"{key} {name!r}: a name has only {_PLAIN}")
    cluster = config.cluster
    for key in ("partition", "account", "qos", "mem", "interface"):
        value = getattr(cluster, key)
        if value is not None and not _WORD.match(value):
            flag = "cluster.interface" if key == "interface" else f"--{key}"
            raise UsageError(f"{flag} {value!r}: spaces, quotes and shell characters are refused")
    if cluster.constraint is not None and not _FEATURES.match(cluster.constraint):
        raise UsageError(f"--constraint {cluster.constraint!r} is not an expression of features")
    for key, value in cluster.sbatch.items():
        if (flag := _OF_THE_PLAN.get(option_name(key))) is not None:
            raise UsageError(f"--sbatch {key}: use {flag}, which the plan of the run follows")
        if any(ord(c) < 32 for c in key + value):
            raise UsageError(f"--sbatch {key}: line breaks are refused")
        _refuse_secrets(value, f"--sbatch {key}")
    for line in cluster.setup:
        _refuse_secrets(line, "cluster.setup")
    for key in cluster.env:
        if not re.match(r"^[A-Za-z_]\w*$", key):
            raise UsageError(f"cluster.env: {key!r} is not the name of a variable")
        if is_secret(key):
            raise UsageError(
                f"cluster.env.{key}: the run keeps this file, put no secrets here: "
                "export the variable, the job inherits it"
            )


def _refuse_secrets(text: str, where: str) -> None:
    """Raise `UsageError` if text gives a value to a variable that looks like a secret."""
    for variable in re.findall(r"(\w+)=", text):
        if is_secret(variable):
            raise UsageError(
                f"{where}: gives {variable} a value, and the run keeps this text: "
                "export the variable before submitting, the job inherits it"
            )


def is_secret(variable: str) -> bool:
    """Return whether an environment variable's name looks like that of a secret."""
    return bool(
        re.search(
            r"(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY)",
            variable.upper(),
        )
    )


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def check_packages(config: RunConfig) -> None:
    """Raise `UsageError` for features whose package is not installed. Imports none of them."""
    zero = config.engine.zero
    if zero is not None and not _installed("deepspeed"):
        raise UsageError(
            f"--zero {zero} needs deepspeed, which is not installed: pip install deepspeed"
        )
    tracker = config.tracking.tracker
    if tracker != "none" and not _installed(tracker):
        raise UsageError(
            f"--tracker {tracker} needs the package {tracker}, which is not installed: "
            f"pip install {tracker}, or --tracker none"
        )


def unused_settings(config: RunConfig, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return notes on what was typed, or is in the environment, and changes nothing."""
    notes = []
    if config.optim.base_batch is not None and config.optim.lr_rule == "fixed":
        notes.append("--base-batch is not used without --lr-rule: the learning rate is as typed")
    if config.cluster.executor != "slurm" or "SLURM_JOB_ID" in environ:
        return notes  # inside a job they are the outer one's
    return notes + [
        f"SBATCH_{name} is not used, a run says what it asks for: {flag}{value}"
        for name, flag, key in (
            ("ACCOUNT", "--account ", "account"),
            ("PARTITION", "--partition ", "partition"),
            ("QOS", "--qos ", "qos"),
            ("TIMELIMIT", "--time ", "time"),
            ("CONSTRAINT", "--constraint ", "constraint"),
            *((n, f"--sbatch {n.lower()}=", "") for n in ("RESERVATION", "GRES")),
        )
        if (value := environ.get(f"SBATCH_{name}"))
        and (getattr(config.cluster, key) if key else config.cluster.sbatch.get(name.lower()))
        != value
    ]


def check_devices(config: RunConfig) -> list[str]:
    """Check that the devices can do what is asked, where they are this machine's.

    Raises:
        UsageError: bf16 or fp16 where the device has none.
    """
    engine = config.engine
    if engine.precision == "fp16" and engine.device == "cpu":
        raise UsageError("fp16 does not run on CPU: use --precision bf16 or fp32")
    if engine.precision != "bf16" or config.cluster.executor != "local":
        return []
    able = machine.cpu_has_bf16() if engine.device == "cpu" else machine.gpu_has_bf16()
    if able is False:
        other = "fp32" if engine.device == "cpu" else "fp16"
        kind = "CPU" if engine.device == "cpu" else "GPU"
        raise UsageError(f"this {kind} has no bf16: use --precision {other}")
    return []


def check_places(config: RunConfig, runs: Path) -> list[str]:
    """Check that the runs folder can be written to, and that the nodes can see it.

    Raises:
        UsageError: it cannot, or they cannot.
    """
    reason = machine.unwritable(runs)
    if reason is not None:
        raise UsageError(f"cannot write to the runs folder {runs}: {reason}")
    if config.cluster.executor != "slurm":
        return []
    shared = config.cluster.shared
    reason = machine.node_local(runs, shared)
    if reason is not None:
        raise UsageError(
            f"the nodes cannot see the runs folder {runs}: {reason}; use --runs DIR on a shared "
            "file system (or name it in cluster.shared or $GLUELINE_SHARED if it is one)"
        )
    notes = []
    places = {"the program": Path(__file__).resolve().parents[1], "the data": config.task.path}
    places["the model"] = config.model.path
    for what, place in places.items():
        if place and (reason := machine.node_local(Path(place), shared)):
            notes.append(f"the nodes may not see {what} in {place}: {reason}")
    return notes


def check_notice(config: RunConfig) -> None:
    """Check that the file which `cluster.notify` names will be found when the run is over.

    Raises:
        UsageError: it cannot be read, is empty, or is named from the folder that we are in.
    """
    how = config.cluster.notify or ""
    if not how.startswith("@"):
        return
    from slurm.notice import spelled_out

    path = Path(how[1:]).expanduser()
    if not path.is_absolute():
        raise UsageError(f"cluster.notify={how}: jobs run elsewhere, use @{path.absolute()}")
    try:
        spelled_out(how)
    except UsageError as error:
        raise UsageError(f"cluster.notify={how}: {error}") from None


def look_at_inputs(config: RunConfig) -> SourceInfo | None:
    """Check the rows and the weights that are on this machine.

    Returns:
        What the data holds, or None where it is still on the hub.

    Raises:
        UsageError: a split, column or label is missing or wrong, or the model is incomplete.
    """
    check_model(config.model)
    task = config.task
    if not (task.path or task.files or task.generated):
        return None
    from training.sources import check_source

    return check_source(task)


def check_model(model: ModelConfig) -> None:
    """Raise `UsageError` if a local model lacks its config, tokenizer or weights."""
    if not (model.path or model.package):
        return
    from training.sources import model_folder

    folder = model_folder(model)
    if folder is None:
        return
    if not (folder / "config.json").is_file():
        raise UsageError(f"model {model.name}: {folder} has no config.json")
    if not any((folder / n).is_file() for n in _TOKENIZERS) and not any(folder.glob("*.model")):
        raise UsageError(f"model {model.name}: {folder} has no tokenizer (tokenizer.json)")
    weights = ("*.safetensors", "pytorch_model*.bin")
    if model.pretrained and not any(any(folder.glob(pattern)) for pattern in weights):
        raise UsageError(
            f"model {model.name}: {folder} has no weights (model.safetensors): "
            "add --set model.pretrained=false to start from random ones"
        )


def head_notes(config: RunConfig, source: SourceInfo | None) -> list[str]:
    """Return a note where a local model's trained head has other labels than the data has."""
    if source is None or config.task.problem == "regression":
        return []
    from training.label_order import look_at_head

    head = look_at_head(config.model, source.label_names)
    return [head.note(config.model.name)] if head else []


def peer_notes(config: RunConfig) -> list[str]:
    """Return a note on what the plan of a peer run does not know."""
    if config.engine.peer == "none":
        return []
    return [
        f"--peer {config.engine.peer} computes each global batch at once and writes no "
        "checkpoints: it may take more memory and time than the plan says, and an interrupted run "
        "starts over"
    ]


_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json")


def tokenizer_json(config: RunConfig) -> Path | None:
    """Return the fast tokenizer's file of a local model, or None where there is none (yet)."""
    model: Any = config.model
    if not (model.path or model.package):
        return None
    from training.sources import model_folder

    folder = model_folder(model)
    file = folder / "tokenizer.json" if folder else None
    return file if file and file.is_file() else None


def check_length(config: RunConfig, longest: int) -> None:
    """Raise `UsageError` if a local model has fewer positions than the longest input's tokens."""
    from training.rundir import read_json
    from training.sources import model_folder

    if not (config.model.path or config.model.package):
        return
    folder = model_folder(config.model)
    described = read_json(folder / "config.json") if folder else None
    if not isinstance(described, dict):
        return
    positions = described.get("max_position_embeddings")
    if described.get("model_type") in ("roberta", "xlm-roberta", "camembert") and positions:
        positions -= described.get("pad_token_id", 1) + 1  # they count from behind the padding's
    if isinstance(positions, int) and 0 < positions < longest:
        raise UsageError(
            f"inputs have up to {longest} tokens, model {config.model.name} has {positions} "
            f"positions: use --max-length {positions}"
        )
