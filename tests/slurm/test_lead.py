from hypothesis import given
from hypothesis import strategies as st

from slurm.lead import LEAST_SECONDS, UNKNOWN_SECONDS, lead_seconds

SECONDS = st.floats(0, 1e5)


def test_a_step_and_a_save_fit_in_twice():
    assert lead_seconds(10.0, 60.0) == 155.0
    assert lead_seconds(None, 60.0) == 135.0
    assert lead_seconds(0.2, 0.1) == LEAST_SECONDS
    assert lead_seconds(None, None) == UNKNOWN_SECONDS


def test_a_short_limit_is_not_given_up_as_a_whole():
    assert lead_seconds(30.0, 60.0, limit_seconds=120.0) == 60.0
    assert lead_seconds(None, None, limit_seconds=60.0) == 30.0


@given(SECONDS, SECONDS, SECONDS)
def test_slower_steps_and_saves_never_shorten_it(step, save, more):
    assert lead_seconds(step + more, save) >= lead_seconds(step, save) >= step + save
    assert lead_seconds(step, save + more) >= lead_seconds(step, save)
