"""Who is missing where all wait."""

from training.watchdog import Beat, missing


def beats(*counts: int) -> list[Beat]:
    return [Beat(rank, f"n{rank}", count, f"place {count}") for rank, count in enumerate(counts)]


def test_the_one_behind():
    rank, said = missing(beats(7, 7, 5, 7), 4)
    assert rank == 2
    assert said == "rank 2 on n2 is stuck at place 5, the others wait at place 7"


def test_several_behind():
    rank, said = missing(beats(7, 5, 5, 7), 4)
    assert rank == 1 and "(and 1 more)" in said


def test_one_that_never_spoke():
    rank, said = missing([Beat(0, "n0", 3), Beat(2, "n2", 3)], 3)
    assert rank == 1 and said == "rank 1 never reported"


def test_all_wait():
    rank, said = missing(beats(4, 4), 2)
    assert rank is None and said == "all ranks wait in the same place: place 4"
