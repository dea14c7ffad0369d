"""What is on the hub is fetched here, on the login node: compute nodes need no internet.

Below the runs folder's cache, as plain folders: `hub/models/ORG--NAME@COMMIT/` and
`hub/datasets/ORG--NAME@COMMIT[-SUBSET]/`. A folder is complete or absent: it is fetched under
a temporary name and renamed. A small file beside it notes which commit a branch or tag meant, so
that the same request needs no network again.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from training.config import RunConfig, UsageError, nearest
from training.rundir import write_atomic

from .lock import locked

DATA_FILES = ("*.parquet", "*.csv", "*.tsv", "*.jsonl", "*.json")
_NOT_DATA = ("dataset_infos.json", "dataset_info.json", "config.json")
_TOKENIZER = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
)
_WEIGHTS = (
    ("model.safetensors",),
    ("model-*-of-*.safetensors", "model.safetensors.index.json"),
    ("*.safetensors", "*.safetensors.index.json"),
    ("pytorch_model.bin",),
    ("pytorch_model-*.bin", "pytorch_model.bin.index.json"),
)
"""Kinds of weights, best first; one kind is fetched."""


@dataclass(frozen=True)
class Wanted:
    """One repository of the hub, or the part of it that a run needs."""

    kind: Literal["model", "dataset"]
    repo: str
    revision: str | None = None
    subset: str | None = None

    @property
    def flag(self) -> str:
        """What to type to do without the hub."""
        return "--model FOLDER" if self.kind == "model" else "--data DIR"

    @property
    def stem(self) -> str:
        """The repository's id as a file name."""
        return self.repo.replace("/", "--")

    @property
    def suffix(self) -> str:
        """What tells the subset in a file name."""
        return f"-{self.subset.replace('/', '--')}" if self.subset else ""


def wanted(config: RunConfig) -> tuple[Wanted | None, Wanted | None]:
    """Return what a run needs of the hub: its model and its data set, None where it is here."""
    model, task = config.model, config.task
    needs_model = model.hub and not (model.path or model.package or model.architecture)
    needs_data = task.hub and not (task.path or task.files or task.generated)
    return (
        Wanted("model", model.hub or "", model.revision) if needs_model else None,
        Wanted("dataset", task.hub or "", task.revision, task.subset) if needs_data else None,
    )


def make_cache(config: RunConfig, cache: Path) -> None:
    """Make the cache that runs share, if it is not there; for its owner alone where that is asked.

    Raises:
        UsageError: it cannot be made.
    """
    try:
        if not cache.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            if config.cluster.private:
                cache.chmod(0o700)
    except OSError as error:
        raise UsageError(
            f"cannot write to the runs folder {cache.parent}: {error.strerror}"
        ) from None


def already_here(config: RunConfig, cache: Path) -> RunConfig:
    """Return the configuration with the paths of what was fetched before. No network."""
    model, data = wanted(config)
    return config.with_paths(
        model=_text(find(model, cache) if model else None),
        task=_text(find(data, cache) if data else None),
    )


def fetch_all(config: RunConfig, cache: Path) -> RunConfig:
    """Return the configuration with the paths of model and data set, fetched where missing.

    Raises:
        UsageError: the hub cannot be reached, or does not have or give it.
    """
    model, data = wanted(config)
    return config.with_paths(
        model=_text(fetch(model, cache) if model else None),
        task=_text(fetch(data, cache) if data else None),
    )


def _text(path: Path | None) -> str | None:
    return str(path) if path is not None else None


def _home(what: Wanted, cache: Path) -> Path:
    return cache / "hub" / f"{what.kind}s"


def _note(what: Wanted, cache: Path) -> Path:
    revision = (what.revision or "main").replace("/", "--")
    return _home(what, cache) / f".{what.stem}@{revision}{what.suffix}.commit"


def find(what: Wanted, cache: Path) -> Path | None:
    """Return the folder of an earlier fetch, or None."""
    commit = what.revision
    with contextlib.suppress(OSError):
        commit = _note(what, cache).read_text().strip()
    place = _home(what, cache) / f"{what.stem}@{commit}{what.suffix}"
    return place if place.is_dir() else None


def fetch(what: Wanted, cache: Path) -> Path:
    """Return the local folder of a repository of the hub, fetching what is missing.

    Raises:
        UsageError: the hub cannot be reached, or does not have or give it.
    """
    found = find(what, cache)
    if found is not None:
        return found
    # Bars of many files make no readable log; the line below says what happens.
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with _hub_errors(what):
        commit, files = _look(what)
        place = _home(what, cache) / f"{what.stem}@{commit}{what.suffix}"
        if not place.is_dir():
            try:
                with locked(place.parent / f".{place.name}.lock", _waiting(what)):
                    if not place.is_dir():  # else somebody else fetched it while we waited
                        _download(what, commit, files, place)
            finally:
                _remove_empty(place.parent)
    write_atomic(_note(what, cache), commit + "\n")
    return place


def _look(what: Wanted) -> tuple[str, list[str]]:
    """Return the commit that the revision means, and the names of all its files."""
    from huggingface_hub import HfApi

    ask = HfApi().model_info if what.kind == "model" else HfApi().dataset_info
    info = ask(what.repo, revision=what.revision or "main", timeout=15)
    if info.sha is None:
        raise UsageError(f"the hub does not tell the commit of {what.kind} {what.repo}")
    return info.sha, [s.rfilename for s in info.siblings or []]


def _download(what: Wanted, commit: str, files: list[str], place: Path) -> None:
    from huggingface_hub import hf_hub_download, snapshot_download

    place.parent.mkdir(parents=True, exist_ok=True)
    # Always the same name: what a killed process had fetched is not fetched again.
    temporary = place.parent / f".{place.name}.part"
    scratch = temporary / ".scratch"
    started = time.monotonic()
    try:
        if what.kind == "model":
            chosen = model_files(files, what.repo)
        else:
            readme = ""
            if "README.md" in files:
                # `cache_dir`: else a file of references would be left in the user's own cache.
                card = hf_hub_download(
                    what.repo,
                    "README.md",
                    repo_type="dataset",
                    revision=commit,
                    local_dir=temporary,
                    cache_dir=scratch,
                )
                readme = Path(card).read_text(encoding="utf-8", errors="replace")
            chosen = dataset_files(files, readme, what.repo, what.subset)
        _say(f"fetching {what.kind} {what.repo} ({len(chosen)} files) …")
        snapshot_download(
            what.repo,
            repo_type=what.kind,
            revision=commit,
            local_dir=temporary,
            cache_dir=scratch,
            allow_patterns=[glob.escape(name) for name in chosen],
        )
        for extra in (scratch, temporary / ".cache"):
            shutil.rmtree(extra, ignore_errors=True)
        missing = [name for name in chosen if not (temporary / name).is_file()]
        if missing:
            raise UsageError(f"the hub did not give {missing[0]} of {what.kind} {what.repo}")
        size = sum(p.stat().st_size for p in temporary.rglob("*") if p.is_file())
        try:
            temporary.rename(place)
        except OSError:
            # Somebody else fetched the same commit meanwhile: theirs is as good.
            if not place.is_dir():
                raise
        took = time.monotonic() - started
        _say(f"fetched {what.kind} {what.repo}: {size / 1e6:.1f} MB in {took:.0f} s")
    except KeyboardInterrupt:
        _say(f"stopped: the same line again goes on fetching {what.kind} {what.repo}")
        raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _waiting(what: Wanted) -> Callable[[str], None]:
    return lambda holder: _say(f"{holder} fetches {what.kind} {what.repo}: waiting for it")


def _remove_empty(folder: Path) -> None:
    """Remove the cache's folders that a failed fetch leaves empty."""
    for place in (folder, folder.parent, folder.parent.parent, folder.parent.parent.parent):
        try:
            place.rmdir()
        except OSError:
            return


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def model_files(files: Iterable[str], repo: str) -> list[str]:
    """Return the files of a model's repository that are needed: config, tokenizer, weights.

    Raises:
        UsageError: there are no weights that transformers can load, or no config.
    """
    top = sorted(f for f in files if "/" not in f)
    if "config.json" not in top:
        raise UsageError(f"model {repo} has no config.json on the hub: it is not for transformers")
    for patterns in _WEIGHTS:
        weights = _matching(top, patterns)
        if weights:
            break
    else:
        raise UsageError(f"model {repo} has no weights for PyTorch on the hub (safetensors, bin)")
    return sorted({"config.json", *_matching(top, _TOKENIZER), *weights})


def dataset_files(files: Iterable[str], readme: str, repo: str, subset: str | None) -> list[str]:
    """Return the files of a data set's repository that are needed: the card and the rows.

    The card's `configs` tell which files make the subset; without them all data files are taken,
    or those in the subset's folder.

    Raises:
        UsageError: there is no such subset, or no file of a known kind.
    """
    files = sorted(files)
    data = [f for f in _matching(files, DATA_FILES) if f.rsplit("/", 1)[-1] not in _NOT_DATA]
    data = [f for f in data if not f.startswith(".")]
    configs = _card_configs(readme)
    if configs:
        if subset is None:
            subset = "default" if "default" in configs else next(iter(configs))
            if len(configs) > 1 and subset != "default":
                names = ", ".join(sorted(configs))
                raise UsageError(
                    f"data set {repo} has several subsets: use --subset NAME ({names})"
                )
        if subset not in configs:
            raise UsageError(
                f"data set {repo} has no subset '{subset}': {nearest(subset, configs)}"
            )
        chosen = _matching(files, configs[subset])
    elif subset is not None and any(f.startswith(f"{subset}/") for f in data):
        chosen = [f for f in data if f.startswith(f"{subset}/")]
    else:
        chosen = data
    if not chosen:
        raise UsageError(
            f"data set {repo} has no parquet, CSV or JSON files on the hub: "
            "convert it, and use --data DIR or --train-file FILE"
        )
    return sorted({*chosen, *(f for f in files if f == "README.md")})


def _matching(files: Iterable[str], patterns: Iterable[str]) -> list[str]:
    patterns = list(patterns)
    return [f for f in files if any(fnmatch.fnmatchcase(f, p) for p in patterns)]


def _card_configs(readme: str) -> dict[str, list[str]]:
    """Return the file patterns of each configuration that a data set's card declares."""
    if not readme.startswith("---"):
        return {}
    try:
        card = yaml.safe_load(readme.split("---", 2)[1])
    except (yaml.YAMLError, IndexError):
        return {}
    found: dict[str, list[str]] = {}
    for entry in (card or {}).get("configs") or []:
        patterns = [*_paths(entry.get("data_files"))]
        base = entry.get("data_dir")
        if base:
            patterns = [f"{base}/{p}" for p in patterns] or [f"{base}/*"]
        if patterns:
            found[str(entry.get("config_name", "default"))] = [
                p.removeprefix("./") for p in patterns
            ]
    return found


def _paths(value: Any) -> Iterator[str]:
    """Yield the patterns in any of the forms that `data_files` may have."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _paths(item)
    elif isinstance(value, dict):
        inner = value["path"] if "path" in value else list(value.values())
        yield from _paths(inner)


@contextlib.contextmanager
def _hub_errors(what: Wanted) -> Iterator[None]:
    """Turn the hub's many errors into one line each."""
    from huggingface_hub import constants, errors

    name = f"{what.kind} {what.repo}"
    try:
        yield
    except errors.GatedRepoError:
        raise UsageError(
            f"{name} is gated: ask for access on {constants.ENDPOINT}/{what.repo}, "
            "then set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        hint = "check the id; a private one needs HF_TOKEN"
        raise UsageError(f"{name} is not on the hub {constants.ENDPOINT}: {hint}") from None
    except errors.RevisionNotFoundError:
        raise UsageError(f"{name} has no revision '{what.revision}' on the hub") from None
    except errors.HFValidationError as error:
        raise UsageError(f"{name}: not an id of the hub: {error}") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "?"
        raise UsageError(
            f"the hub {constants.ENDPOINT} answers {status} for {name}: try again, "
            f"or use {what.flag}"
        ) from None
    except UsageError:
        raise
    except OSError as error:
        if isinstance(error, (PermissionError, FileExistsError, NotADirectoryError)) or (
            error.errno is not None and error.filename is not None
        ):
            raise UsageError(f"cannot store {name}: {error}") from None
        raise UsageError(_unreachable(name, what)) from None
    except Exception as error:
        # httpx's errors are no OSError; which httpx it is differs between releases.
        if type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "requests"):
            raise UsageError(_unreachable(name, what)) from None
        raise


def _unreachable(name: str, what: Wanted) -> str:
    from huggingface_hub import constants

    return f"cannot reach the hub {constants.ENDPOINT} for {name}: use {what.flag}"
