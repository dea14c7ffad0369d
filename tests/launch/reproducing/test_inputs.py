"""Which runs read what, and by which code."""

from hypothesis import given
from hypothesis import strategies as st

from launch.reproducing.inputs import codes, fingerprint, inputs_of, mixed


def files(digest, place="/a"):
    return [{"path": f"{place}/train.parquet", "bytes": 9, "sha256": digest}]


def manifest(data="1", weights="2", place="/a", **more):
    return {"data": files(data, place), "weights": files(weights, place), **more}


def code(commit="c", diff=None, code=None):
    git = {"commit": commit, "dirty": bool(diff), "diff_sha256": diff}
    return {"versions": {"glueline": "1.0"}, "git": git, "code": code}


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=6))
def test_inputs_are_told_apart_by_content_and_not_by_place(digests):
    found = {n: manifest(d, place=f"/{n}") for n, d in enumerate(digests, 1)}
    assert bool(mixed(found)) == (len(set(digests)) > 1)
    told = inputs_of(found)
    assert told["data"] == fingerprint(files(digests[0]))
    assert ("several" in told) == (len(set(digests)) > 1)
    if "several" in told:
        assert sorted(s for p in told["several"]["data"] for s in p["seeds"]) == sorted(found)


def test_which_seeds_differ_is_said():
    (said,) = mixed({1: manifest(), 2: manifest("9"), 3: manifest()})
    assert said.startswith("the data are not the same for all seeds: sha256 ")
    assert "for seeds 1, 3" in said and "for seed 2" in said
    # What is not known is not another one.
    assert mixed({1: manifest(), 2: {}}) == []
    assert inputs_of({}) == {"data": None, "weights": None}


def test_gluelines_are_told_apart_by_the_code_that_ran():
    (one,) = codes([code(), code(), {}])
    assert one["runs"] == 2 and one["version"] == "1.0" and one["git"]["commit"] == "c"
    assert [c["runs"] for c in codes([code("d"), code(), code()])] == [2, 1]
    assert len(codes([code(diff="1"), code(diff="2")])) == 2
    # Another commit of the same code, and other code of the same commit.
    assert len(codes([code("c", code="x"), code("d", code="x")])) == 1
    assert len(codes([code(code="x"), code(code="y")])) == 2
