"""A step's gradient is the mean over its examples: for every engine, world size and cut.

The truth is one batch of all examples of the step in float64, in one process without any engine,
at the weights that the engine held before the step.
"""

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from training.noise import Estimate, estimate, rows_square

from .engine_worker import make_model, mean_loss, rows
from .exact_worker import KINDS, LAST, LR, ROWS, chosen, cut_case, deal_case
from .test_engine import ENGINES

WORLDS = (1, 2, 4)
DEPTHS = (1, 3, 8)
"""Micro-batches a rank (K)."""
TOLERANCE = 1e-5
WORDS = "bert.embeddings.word_embeddings.weight"

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Step:
    """What an engine made of a step, and the truth."""

    kind: str
    loss: float
    norm: float
    after: Tensors
    update: Tensors
    """(weights before - weights after) / learning rate, in float64."""
    true_loss: float
    gradient: Tensors


@dataclass(frozen=True)
class Walk:
    """All steps of one launch."""

    report: dict
    weights: list[Tensors]
    labels: int
    depths: tuple[int, ...]

    def step(self, slots: int, kind: str) -> Step:
        epoch = self.depths.index(slots)
        place = epoch * len(KINDS) + KINDS.index(kind)
        before, after = self.weights[place : place + 2]
        true_loss, gradient = reference(before, epoch, kind, self.labels)
        update = {n: (before[n].double() - after[n].double()) / LR[kind] for n in gradient}
        return Step(
            kind=kind,
            loss=self.report["losses"][place],
            norm=self.report["norms"][place],
            after=after,
            update=update,
            true_loss=true_loss,
            gradient=gradient,
        )


def reference(weights: Tensors, epoch: int, kind: str, labels: int) -> tuple[float, Tensors]:
    """Return loss and gradient of the mean over a step's examples, in float64 in one batch."""
    model = make_model(labels).double()
    # Strict: a weight that the engine does not return is an error.
    model.load_state_dict(weights)
    loss = mean_loss(model, rows(ROWS, labels), chosen(epoch, kind), labels == 1)
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(found) == len(list(model.parameters()))
    return float(loss.detach()), found


@pytest.fixture(scope="session")
def walk(forks, tmp_path_factory):
    """Return a function that launches ranks which take all steps, once for every row of tests."""

    @cache
    def launch(engine: str, world: int, precision: str, labels: int, depths: tuple[int, ...]):
        out = tmp_path_factory.mktemp("exact")
        words = [str(out), engine, precision, str(labels), *map(str, depths)]
        said = str(out / "said")
        return forks("tests.training.exact_worker", words, world, said=said, timeout=180), out

    @cache
    def read(out: Path):
        weights = torch.load(out / "weights.pt", weights_only=True)
        return json.loads((out / "report.json").read_text()), weights

    def start(engine: str, world: int, precision="fp32", labels=3, depths=DEPTHS) -> Walk:
        # A launch that failed is remembered as well: it fails all its rows, at the price of one.
        codes, out = launch(engine, world, precision, labels, depths)
        assert codes == [0] * world, (out / "said").read_text()[-3000:]
        report, weights = read(out)
        asked = ("ddp", None) if engine == "ddp" else ("deepspeed", int(engine))
        assert (report["engine"], report["stage"], report["world"]) == (*asked, world)
        return Walk(report, weights, labels, depths)

    return start


def norm(tensors: Tensors) -> float:
    """Return the Euclidean norm over all parameters."""
    return math.sqrt(sum(float(t.square().sum()) for t in tensors.values()))


def distance(update: Tensors, expected: Tensors) -> float:
    """Return the norm of the difference over all parameters, relative to the expected one's."""
    assert update.keys() == expected.keys()
    return norm({name: update[name] - expected[name] for name in expected}) / norm(expected)


def assert_exact(step: Step) -> None:
    """Assert that the engine stepped with the true gradient.

    Over all parameters: the error's norm is within 1e-5 of the gradient's. Every tensor by
    itself, so that small gradients are not hidden behind large ones: within 1e-5 of its own norm,
    plus what fp32 cannot tell: half a unit in the last place of the stored weights, and 1e-7 of
    the whole gradient, since sums cancel (a key's bias has the true gradient 0).
    """
    assert step.loss == pytest.approx(step.true_loss, rel=1e-6)
    assert step.norm == pytest.approx(norm(step.gradient), rel=TOLERANCE)
    assert distance(step.update, step.gradient) < TOLERANCE
    whole = norm(step.gradient)
    for name, true in step.gradient.items():
        error = float((step.update[name] - true).norm())
        stored = 2.0**-24 * float(step.after[name].norm()) / LR[step.kind]
        assert error < TOLERANCE * float(true.norm()) + stored + 1e-7 * whole, name


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("slots", DEPTHS)
def test_the_cases_are_uneven_and_the_short_ones_have_gaps(world, slots):
    """Else a mean of the micro-batches' means would pass as the mean over examples."""
    epoch, micro = DEPTHS.index(slots), world * slots
    sizes = {
        kind: [len(own) for rank in cut_case(epoch, kind, world, slots).micro for own in rank]
        for kind in KINDS
    }
    assert len(sizes["full"]) == len(sizes["ragged"]) == micro
    assert sum(sizes["full"]) == ROWS - LAST and sum(sizes["ragged"]) == LAST
    assert min(sizes["full"]) > 0
    assert micro == 1 or len(set(sizes["full"])) > 1
    assert sizes["ragged"].count(0) == max(0, micro - LAST)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", DEPTHS)
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_classification(walk, engine, world, slots, kind):
    assert_exact(walk(engine, world).step(slots, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", DEPTHS)
@pytest.mark.parametrize("engine", ENGINES)
def test_regression(walk, engine, slots, kind):
    assert_exact(walk(engine, 2, labels=1).step(slots, kind))


@pytest.mark.parametrize("engine", ENGINES)
def test_gradient_noise(walk, engine):
    """What hooks saw of every micro-batch is what float64 finds for the same random deal."""
    found = walk(engine, 2)
    norm, square, trace = found.report["noise"]["copied"][0]
    true_norm, true = true_noise(found.weights[-1], 2)
    assert norm == pytest.approx(true_norm, rel=TOLERANCE)
    assert (square, trace) == pytest.approx((true.square, true.trace), rel=1e-4)
    # Random projections are right on average, and each is near already.
    drawn = np.array(found.report["noise"]["projected"])[:, 2]
    assert drawn.mean() == pytest.approx(true.trace, abs=4 * drawn.std() / np.sqrt(len(drawn)))
    assert 0 < drawn.std() < 0.1 * true.trace


def true_noise(weights: Tensors, world: int) -> tuple[float, Estimate]:
    """Return norm and estimates of the dealt step in float64, a row at a time."""
    model = make_model(3).double()
    model.load_state_dict(weights)
    data, cut = rows(ROWS, 3), deal_case(world)

    def summed(own: np.ndarray) -> torch.Tensor:
        model.zero_grad()
        for row in own:
            mean_loss(model, data, np.array([row]), False).backward()
        zeros = (torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters())
        return torch.cat([g.flatten() for g in zeros])

    whole, each = 0.0, 0.0
    for rank in cut.micro:
        for a, b in zip(rank[::2], rank[1::2], strict=True):
            s, t = summed(a), summed(b)
            whole = whole + s + t
            if len(a):
                each += float(rows_square(s @ s, s @ t, t @ t, len(a), len(b)))
    assert isinstance(whole, torch.Tensor)
    norm, n = float(whole.norm()) / cut.examples, cut.examples
    return norm, estimate(norm, each / n**2, n)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_embeddings_take_part(walk, engine, kind):
    """Words of the step move and no others: their gradient is sparse by nature and summed too."""
    step = walk(engine, 2).step(3, kind)
    assert norm({WORDS: step.gradient[WORDS]}) > 0.05 * norm(step.gradient)
    ids, lengths, _ = rows(ROWS, 3)
    own = chosen(DEPTHS.index(3), kind)
    seen = {int(word) for row in own for word in ids[row][: lengths[row]]}
    moved = step.update[WORDS].abs().sum(dim=1).nonzero().flatten().tolist()
    assert set(moved) == seen
    assert len(seen) < len(step.update[WORDS])


@pytest.mark.parametrize("engine", ENGINES)
def test_bf16_is_the_same_step_on_every_engine(walk, engine):
    """bf16 autocast over fp32 weights, gradients added up and reduced in fp32.

    From the same weights the micro-batches of all engines are the same computation, and their
    gradients meet in fp32: within 1e-5, as in fp32. The second step starts from weights that
    differ in their last bits, and one that lies next to a boundary of bf16 may be rounded to the
    other side: within 2^-8, the step of bf16. Its error against float64 shows that it was bf16.
    """
    found = walk(engine, 2, "bf16", depths=(3,))
    plain = walk("ddp", 2, "bf16", depths=(3,))
    for kind, bound in (("full", TOLERANCE), ("ragged", 2.0**-8)):
        step, same = found.step(3, kind), plain.step(3, kind)
        assert distance(step.update, same.update) < bound
        assert 1e-4 < distance(step.update, step.gradient) < 2e-2
    for weights in found.weights:
        assert {w.dtype for w in weights.values() if w.is_floating_point()} == {torch.float32}
