"""Products of micro-batches' gradients, without keeping a gradient: random projections.

A hook on each parameter sees the gradient of one micro-batch right before it is added to what is
there, whatever DDP or a ZeRO stage does with it afterwards. Of a matrix A [m, n] it keeps
Y = UᵀA / √r, with r columns of random signs in U [m, r]: as E[U·Uᵀ] = r·I, the product of two such
sketches has the product of the matrices as its expectation (Johnson and Lindenstrauss; with signs:
Achlioptas 2003, J. Comput. Syst. Sci. 66:671). It is r/m of the matrix, about a hundredth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from .distributed import World
from .engine import Engine
from .feed import StepPlan
from .kernels import DeferredEmbedding
from .noise import Estimate, estimate, rows_square

COLUMNS = 8
"""r. The error it adds to a pair's |S_a - S_b|² is at most √(2/r) for one matrix alone, and the
dozens of matrices and pairs of a step have independent ones."""
_PURPOSE = 0x736B65746368
"""Tells this use of (seed, step) from others."""


@dataclass(frozen=True)
class _Part:
    """Where a parameter's sketch is."""

    place: slice
    """In the flat buffers."""
    rows: int
    """Rows of the sketch."""
    signs: slice | None
    """Where its signs are; None for a parameter that is small enough to be copied."""


class GradientSketch:
    """Measures the noise of one step's gradient. Every rank uses it alike."""

    def __init__(self, engine: Engine, world: World, seed: int, columns: int = COLUMNS) -> None:
        """Prepare to measure; parameters of up to `columns` rows are copied, not projected."""
        self._engine, self._world, self._seed, self._columns = engine, world, seed, columns
        self._parameters = dict(engine.trained())
        self._parts: dict[str, _Part] = {}
        place = sign = 0
        for name, parameter in self._parameters.items():
            shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
            whole = int(np.prod(shape))
            if len(shape) < 2 or shape[0] <= columns:
                size, signs, rows = whole, None, 1
            else:
                size, rows = whole // shape[0] * columns, columns
                signs = slice(sign, sign + shape[0] * columns)
                sign = signs.stop
            self._parts[name] = _Part(slice(place, place + size), rows, signs)
            place += size
        self._sizes = place, sign
        self._open: StepPlan | None = None
        self._total: torch.Tensor | None = None
        self._slot = 0

    @contextlib.contextmanager
    def step(self, plan: StepPlan) -> Iterator[None]:
        """Surround the micro-batches of a step; does nothing where it is not measured."""
        if not plan.dealt:
            yield
            return
        device, (size, signs) = self._engine.device, self._sizes
        entropy = np.random.SeedSequence([self._seed, plan.step, _PURPOSE])
        words = np.random.SFC64(entropy).random_raw(-(-signs // 64))
        bits = np.unpackbits(np.asarray(words).view(np.uint8))[:signs]
        drawn = torch.from_numpy(bits).to(device).float()
        self._signs = drawn.mul_(2.0).sub_(1.0).mul_(self._columns**-0.5)
        self._both = torch.zeros(2, size, device=device)
        self._total = torch.zeros((), dtype=torch.float64, device=device)
        self._open = plan
        handles = []
        try:
            deferred = {id(embedding.weight): embedding for embedding in self._engine.embeddings}
            for name, parameter in self._parameters.items():
                embedding = deferred.get(id(parameter))
                if embedding is None:
                    handles.append(parameter.register_hook(self._hook(name)))
                else:
                    embedding.watch = self._watch(name, embedding)
            yield
        finally:
            for handle in handles:
                handle.remove()
            for embedding in self._engine.embeddings:
                embedding.watch = None
            self._open = None
            del self._both, self._signs

    @contextlib.contextmanager
    def micro(self, slot: int) -> Iterator[None]:
        """Surround one micro-batch of a step."""
        self._slot = slot % 2
        yield
        if self._open is None or slot % 2 == 0:
            return
        a, b = self._both
        own = self._open.cut.micro[self._world.rank]
        rows = len(own[slot - 1]), len(own[slot])
        if rows[0]:
            assert self._total is not None
            aa, ab, bb = (torch.dot(x, y).double() for x, y in ((a, a), (a, b), (b, b)))
            self._total += rows_square(aa, ab, bb, *rows)
        self._both.zero_()

    def result(self, plan: StepPlan, norm: float, scale: float) -> Estimate | None:
        """Return the estimates of a measured step; None where the gradient is not finite.

        Collective.

        Args:
            plan: of the step.
            norm: of its mean gradient, before clipping.
            scale: that of fp16's loss, 1 without.
        """
        assert self._total is not None, "the step was not measured"
        # What hooks see is the gradient of the loss's share times world / rows · scale.
        own = float(self._total) / (self._world.size * scale) ** 2
        self._total = None
        found = estimate(norm, float(self._world.sum(np.array([own]))[0]), plan.cut.examples)
        return found if np.isfinite([found.square, found.trace]).all() else None

    def _row(self, slot: int, part: _Part) -> torch.Tensor:
        return self._both[slot][part.place].view(part.rows, -1)

    def _hook(self, name: str) -> Callable[[torch.Tensor], None]:
        part = self._parts[name]

        def add(gradient: torch.Tensor) -> None:
            place = self._row(self._slot, part)
            with torch.no_grad(), torch.autocast(gradient.device.type, enabled=False):
                if part.signs is None:
                    place.add_(gradient.reshape(1, -1))
                else:
                    signs = self._signs[part.signs].view(part.rows, -1)
                    place.addmm_(signs, gradient.reshape(gradient.shape[0], -1).float())

        return add

    def _watch(
        self, name: str, embedding: DeferredEmbedding
    ) -> Callable[[torch.Tensor, torch.Tensor], None]:
        part, padding = self._parts[name], embedding.padding_idx

        def add(ids: torch.Tensor, gradient: torch.Tensor) -> None:
            place, gradient = self._row(self._slot, part), gradient.float()
            with torch.no_grad(), torch.autocast(gradient.device.type, enabled=False):
                if padding is not None:
                    gradient = gradient * (ids != padding).unsqueeze(1)
                if part.signs is None:
                    whole = place.view(embedding.num_embeddings, -1)
                    whole.index_add_(0, ids, gradient)
                else:
                    place.addmm_(self._signs[part.signs].view(part.rows, -1)[:, ids], gradient)

        return add
