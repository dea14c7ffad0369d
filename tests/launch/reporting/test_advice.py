"""The recommended batch and the Pareto front."""

from launch.reporting.advice import front, recommend
from launch.reporting.cells import Trial, make_cells
from tests.present import present

from .test_cells import record, trials


def test_the_largest_batch_within_the_margin_is_recommended():
    rows = [(32, "sqrt", s, 0.90 + 0.001 * s, 4.0) for s in range(3)]
    rows += [(64, "sqrt", s, 0.895 + 0.001 * s, 2.0) for s in range(3)]
    rows += [(128, "sqrt", s, 0.80 + 0.001 * s, 1.0) for s in range(3)]
    # A lucky single run, and a mean of scattered seeds, speak for nothing.
    rows += [(256, "sqrt", 0, 0.95, 0.5)]
    rows += [(512, "sqrt", s, 0.90 + 0.1 * s, 0.4) for s in (-1, 0, 1)]
    cells = make_cells(trials(*rows), 0.5, None)
    advice = present(recommend(cells, 0.01))
    assert (advice.cell.batch, advice.best.batch, advice.single) == (64, 32, False)
    assert present(recommend(cells, 0.0)).cell.batch == 32
    assert present(recommend(cells, 0.2)).cell.batch == 128


def test_single_runs_are_compared_by_their_scores():
    cells = make_cells(trials((32, "sqrt", 1, 0.90, 1), (64, "sqrt", 1, 0.895, 1)), 0.5, None)
    advice = present(recommend(cells, 0.01))
    assert advice.cell.batch == 64 and advice.single
    assert recommend([], 0.01) is None


def test_the_front_has_what_nothing_beats_in_both():
    rows = [(32, "a", 1, 0.90, 4.0), (64, "a", 1, 0.89, 2.0), (128, "a", 1, 0.85, 3.0)]
    cells = make_cells(trials(*rows, (256, "a", 1, 0.80, 1.0)), 0.5, None)
    assert [c.batch for c in front(cells)] == [256, 64, 32]


def test_collapsed_runs_speak_for_nothing():
    """The same constant answer three times has an interval of width zero."""
    rows = [(32, "a", s, score, 1.0) for s, score in enumerate((0.74, 0.80, 0.83))]
    rows += [(2048, "a", s, 0.6838, 0.1) for s in range(3)]
    cells = make_cells(trials(*rows), 0.6838, None)
    assert present(recommend(cells)).cell.batch == 32
    assert [c.batch for c in front(cells)] == [32]
    assert recommend(cells[1:]) is None and front(cells[1:]) == []
    # Neither does the mean of those that are left where others diverged.
    well = [(32, "a", s, 0.9 + s / 1000, 1.0) for s in range(5)]
    some = trials(*well, (512, "a", 0, 0.903, 0.1), (512, "a", 1, 0.904, 0.1))
    lost = Trial(9, dict(some[-1].axes), record(None, "failed", diverged=True, global_batch=512))
    assert present(recommend(make_cells([*some, lost], 0.5, None))).cell.batch == 32


def test_two_seeds_that_agree_by_chance_speak_for_nothing():
    rows = [(32, "a", s, 0.866 + d, 1.0) for s, d in enumerate((-0.004, -0.002, 0.0, 0.002, 0.004))]
    rows += [(2048, "a", s, 0.858, 0.1) for s in range(2)]
    some = trials(*rows)
    going = Trial(7, {**some[-1].axes, "seed": 2}, record(None, "running", global_batch=2048))
    advice = present(recommend(make_cells([*some, going], 0.5, None), 0.005))
    assert advice.cell.batch == 32 and not advice.waiting
    advice = present(recommend(make_cells([*some, going], 0.5, None), 0.05))
    assert advice.cell.batch == 2048 and [c.batch for c in advice.waiting] == [2048]
    assert advice.half > 0.003


def test_the_margin_of_an_error_is_a_share_of_it():
    scores = {32: (0.0020, 0.0021), 64: (0.00202, 0.00208), 2048: (0.0090, 0.0091)}
    some = [
        Trial(b + s, {"global_batch": b, "seed": s}, record(score, metric="mse", global_batch=b))
        for b, row in scores.items()
        for s, score in enumerate(row)
    ]
    advice = present(recommend(make_cells(some, 0.0105, None)))
    assert advice.cell.batch == 64 and advice.margin < 0.001
    assert advice.end > 0.00205, "an error's worse end is above its mean"
