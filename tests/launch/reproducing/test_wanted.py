"""Which published numbers are meant by what was typed."""

import pytest

from launch.flags import Request
from launch.reproducing.wanted import choose_set, choose_tasks
from training.config import UsageError


@pytest.mark.parametrize(
    ("model", "tasks", "chosen", "others"),
    [
        ("bert-base-cased", None, "hf-bert-base-cased", "hf-bert-base-cased-fp16"),
        ("bert-base-uncased", "ag_news", "sun2019-bert-agnews", ""),
        ("distilbert-base-uncased", "cola", "distilbert-cola", "distilbert-cola-card"),
    ],
)
def test_of_several_sets_the_one_with_most_of_the_tasks(model, tasks, chosen, others, capsys):
    suite = None if tasks else "glue"
    assert choose_set(None, Request(model=model), suite, tasks).name == chosen
    assert others in capsys.readouterr().err


@pytest.mark.parametrize(
    ("suite", "tasks", "said"),
    [
        ("glu", None, "unknown suite 'glu': did you mean 'glue'"),
        (None, "mnli", "'distilbert-base-cased-x'"),
        (None, "wnli", "of model 'minilm' on wnli, but on mrpc"),
    ],
)
def test_a_model_without_a_number_for_these_tasks(suite, tasks, said):
    model = "distilbert-base-cased-x" if "-x" in said else "minilm"
    with pytest.raises(UsageError) as error:
        found = choose_set(None, Request(model=model), suite, tasks)
        choose_tasks(found, suite, tasks, None)
    assert said in str(error.value)
