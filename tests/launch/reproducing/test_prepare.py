"""A reproduction before it is submitted: its runs, their nodes, and what is said of them."""

from typing import Any

import pytest
import yaml

from launch import machine, sweeping
from launch.flags import Override, Request
from launch.reference_sets import set_of
from launch.reproduce import written_down
from launch.reproducing.prepare import prepare
from launch.reproducing.wanted import Wanted
from launch.sweep import submit_sweep
from tests.launch import fakes
from training.config import UsageError
from training.rundir import write_json

REFERENCE = """
model: tiny
source: nobody, for a test
unit: percent
statistic: mean
recipe: {global_batch: 32, lr: 1.0e-3, epochs: 1, train.select: last}
tasks:
  demo: {scores: [{split: validation, metric: accuracy, value: 99.0}]}
"""

HOW = {"name": None, "pack": None, "max_parallel": None, "workers": None, "all_nodes": False}
HOW |= {"retry_failed": False, "dry_run": True, "as_json": False, "yes": True}


def wanted(content: str = REFERENCE, **more: Any) -> Wanted:
    found = set_of(yaml.safe_load(content), "here", "set")
    tasks = tuple(found.references)
    return Wanted(found, tasks, seeds=3, margin=None, level=0.05, early=True, **more)


def typed(*flags: tuple[str, str], **more: Any) -> Request:
    made = tuple(Override(key, value, f"--{key.split('.')[1]}") for key, value in flags)
    return Request(flags=made, **more)


LOCAL = typed(("cluster.executor", "local"), ("tracking.tracker", "none"))


@pytest.fixture
def site(workplace, monkeypatch):
    """A working directory beside a cluster with nodes of four GPUs."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(workplace / "config"))
    monkeypatch.setattr(machine, "local_gpus", lambda: 0)
    fakes.slurm(monkeypatch)
    return workplace


def test_a_replay_trains_runs_of_its_own(site, capsys):
    old = prepare(LOCAL, wanted(), HOW)
    for trial in old.found.trials:  # they lie in the same folder, and have finished
        run = old.place.run(trial)
        run.path.mkdir(parents=True)
        run.config.write_text(old.found.config(trial).dump())
        write_json(run.results, {"metrics": {}})
    again = wanted(anew=True)
    how = {**HOW, "name": "replay-set"}
    new = prepare(LOCAL, again, how)
    ids = [{t.run_id for t in made.found.trials} for made in (old, new)]
    assert len(ids[1]) == 3 and not ids[0] & ids[1]
    assert [old.found.config(t) for t in old.found.trials] == [
        new.found.config(t) for t in new.found.trials
    ]
    states = sweeping.states(new.place, new.found.trials)
    assert set(states.values()) == {"missing"}
    assert set(sweeping.states(old.place, old.found.trials).values()) == {"finished"}
    # The same line again goes on with the same runs; under another name it is another replay.
    assert {t.run_id for t in prepare(LOCAL, again, how).found.trials} == ids[1]
    other = prepare(LOCAL, again, {**how, "name": "second"}).found.trials
    assert not {t.run_id for t in other} & (ids[0] | ids[1])
    submit_sweep(new.request, new.spec, new.found, new.place, sweeping.Packing(), how)
    assert "3 trials: 3 to submit" in capsys.readouterr().out


def test_a_replay_is_no_reproduction_of_the_same_name(site):
    old, kept = prepare(LOCAL, wanted(), HOW), wanted()
    with pytest.raises(KeyboardInterrupt), written_down(old.place, kept, old.asked):
        write_json(old.place.jobs, {"jobs": [{"job_id": "1"}]})
        raise KeyboardInterrupt
    name = old.place.name
    with pytest.raises(UsageError, match=f"reproduction {name} is no replay: .* --name"):
        prepare(LOCAL, wanted(anew=True), {**HOW, "name": name})
    assert prepare(LOCAL, wanted(), HOW).asked == old.asked


TWO = """
model: tiny
source: nobody, for a test
unit: percent
recipe: {lr: 1.0e-3, epochs: 1, train.select: last}
tasks:
  demo:
    recipe: {global_batch: 32}
    scores: [{split: validation, metric: accuracy, value: 99.0}]
  rte:
    recipe: {global_batch: 1024}
    scores: [{split: validation, metric: accuracy, value: 60.0}]
"""
NODES = (("cluster.partition", "gpu"), ("cluster.time", "60"), ("cluster.nodes", "2"))


def shapes(made):
    return {
        str(t.axes["task"]): (made.found.config(t).cluster.nodes, t.axes.get("nodes"))
        for t in made.found.trials
    }


def test_tasks_of_small_batches_get_fewer_nodes(site):
    made = prepare(typed(*NODES), wanted(TWO), HOW)
    assert shapes(made) == {"demo": (1, 1), "rte": (2, 2)}
    line, shared = made.notes
    assert line.startswith("demo: 1 node for batches of 32, not 2") and "--all-nodes" in line
    assert shared.startswith("demo: 2 runs at a time on a node, for batches of 32")
    assert not made.asked.changed  # where it runs is no part of the recipe
    forced = prepare(typed(*NODES), wanted(TWO), {**HOW, "all_nodes": True})
    assert shapes(forced) == {"demo": (2, None), "rte": (2, None)} and not forced.notes
    # A batch that is typed is that of all tasks.
    large = prepare(typed(*NODES, ("batch.global_batch", "1024")), wanted(TWO), HOW)
    assert shapes(large) == {"demo": (2, None), "rte": (2, None)} and not large.notes
    least = prepare(typed(*NODES, ("cluster.min_nodes", "2")), wanted(TWO), HOW)
    assert shapes(least)["demo"] == (2, None)


def test_runs_of_small_batches_share_a_node(site, monkeypatch):
    """On nodes of four GPUs a batch of 32 keeps two busy, and one of 1,024 all."""
    one = (*NODES[:2], ("cluster.nodes", "1"))
    made = prepare(typed(*one), wanted(TWO), HOW)
    assert shapes(made) == {"demo": (1, None), "rte": (1, None)}
    assert made.packing.of_task == {"demo": 2}
    ranks = {
        str(t.axes["task"]): (
            made.found.config(t).cluster.procs_per_node,
            made.found.plans[t.plan].procs_per_node,
        )
        for t in made.found.trials
    }
    assert ranks == {"demo": (2, 2), "rte": (4, 4)}
    (line,) = made.notes
    assert line.startswith(
        "demo: 2 runs at a time on a node, for batches of 32 leave each of its 4"
    )
    assert not made.asked.changed  # where it runs is no part of the recipe

    # Each kind of node share has arrays of its own: two runs an element, and one.
    sent: list[Any] = []

    def submit_trials(_, config, numbers, packing, *rest):
        sent.append((config.task.name, len(numbers), packing.lanes_of(config)))
        return [str(len(sent))]

    monkeypatch.setattr(sweeping, "submit_trials", submit_trials)
    monkeypatch.setattr("launch.sweep._provide", lambda *_: dict.fromkeys(made.found.bases))
    submit_sweep(
        made.request, made.spec, made.found, made.place, made.packing, {**HOW, "dry_run": False}
    )
    assert sent == [("demo", 3, 2), ("rte", 3, 1)]

    for apart in (
        prepare(typed(*one), wanted(TWO), {**HOW, "pack": 1}),
        prepare(typed(*one, ("cluster.procs_per_node", "4")), wanted(TWO), HOW),
    ):
        assert not apart.packing.of_task and not apart.notes
        assert {apart.found.config(t).cluster.procs_per_node for t in apart.found.trials} == {4}
    typed_two = prepare(typed(*one), wanted(TWO), {**HOW, "pack": 2})
    assert {typed_two.found.config(t).cluster.procs_per_node for t in typed_two.found.trials} == {2}


def test_rows_that_are_not_the_published_ones_are_told_before(site, data_dir, tmp_path):
    import pyarrow.parquet as pq

    folder = tmp_path / "rows" / "glue" / "rte"
    folder.mkdir(parents=True)
    for file in (data_dir / "glue" / "rte").glob("*.parquet"):
        pq.write_table(pq.read_table(file).slice(0, 100), folder / file.name)
    less = TWO.replace("  demo:\n    recipe: {global_batch: 32}\n", "").replace(
        "    scores: [{split: validation, metric: accuracy, value: 99.0}]\n", ""
    )
    request = Request(flags=LOCAL.flags, data=str(tmp_path / "rows"))
    told = prepare(request, wanted(less), HOW).notes
    assert any("rte: the published number is of 277 validation rows, these" in n for n in told)
    official = Request(flags=LOCAL.flags, data=str(data_dir))
    assert not any("published number" in n for n in prepare(official, wanted(less), HOW).notes)
