"""Who takes part: every backend of this installation, torch.compile, nn.LSTM, and JAX where it is installed."""

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Protocol
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elmnet import ops
from elmnet.bench.cases import Case
from elmnet.errors import ElmnetError
from elmnet.ops import reference

if TYPE_CHECKING:
    from elmnet.bench.jax_baselines import Baseline

TOLERANCE = 1e-4
"""Relative L2 error of the loss and of every gradient, float32 against the reference in float64, that still counts as
the same network. Rounding is 1e-6; a ReLU kink crossed by rounding stays below this at the verified sizes."""


class Contender(Protocol):
    """One way to train and run a case's network."""

    name: str

    def refuses(self, case: Case) -> str | None:
        """Why it cannot take part; None: it can."""

    def verify(self, case: Case) -> float | None:
        """Worst relative error against the reference on a small piece of the case; None: another model, no twin."""

    def training(self, case: Case) -> Callable[[], float]:
        """A function that makes one full training step (forward, backward, clipping, Adam), and returns the loss."""

    def streaming(self, case: Case) -> Callable[[], Any] | None:
        """A function that makes one time step of one sequence, carrying the state; None: not compared."""


def contenders(*, quick: bool = False) -> list[Contender]:
    """All of them, those of this package last."""
    others: list[Contender] = [Jax("A"), Jax("B"), Lstm()]
    if not quick:
        others.append(Compiled())
    return [*others, *(Torch(name) for name in reversed(ops.BACKENDS))]


def truth(case: Case) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of the reference in float64."""
    return _loss_and_gradients(case, case.build("reference").double())


def _loss_and_gradients(case: Case, network: Any) -> tuple[float, dict[str, Tensor]]:
    x, y = case.data
    loss = case.loss(network(x.to(network.dtype) if x.is_floating_point() else x)[0], y)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def worst_error(case: Case, loss: float, gradients: dict[str, Tensor]) -> float:
    """Largest relative L2 error of a loss and gradients; a missing gradient is infinitely wrong."""
    true_loss, true_gradients = truth(case)
    errors = [abs(loss - true_loss) / abs(true_loss)]
    for name, want in true_gradients.items():
        got = gradients.get(name, torch.full_like(want, math.inf)).double()
        errors.append(float((got - want).norm() / want.norm().clamp(min=1e-30)))
    return max(error if error == error else math.inf for error in errors)


def _trainer(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], float]:
    """One full step in torch."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> float:
        optimiser.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        return value.item()

    return step


class Torch:
    """A backend of elmnet."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.name = f"elmnet {backend}" if backend != "reference" else "torch eager (elmnet reference)"

    def refuses(self, case: Case) -> str | None:
        """See `Contender`."""
        try:
            case.build(self.backend).backends()
        except ElmnetError as error:
            return str(error)
        return None

    def verify(self, case: Case) -> float:
        """See `Contender`."""
        return worst_error(case, *_loss_and_gradients(case, case.build(self.backend)))

    def training(self, case: Case) -> Callable[[], float]:
        """See `Contender`."""
        network, (x, y) = case.build(self.backend), case.data
        return _trainer(network, lambda: case.loss(network(x)[0], y))

    def streaming(self, case: Case) -> Callable[[], Any]:
        """See `Contender`."""
        network, x = case.build(self.backend).eval(), case.data[0][:1, 0]
        state = network.initial_state(1)

        @torch.no_grad()
        def step() -> None:
            nonlocal state
            _, state = network.step(x, state)

        return step


class Compiled(Torch):
    """torch.compile of the reference's step, looped in Python: a thousand steps unrolled would not compile in hours."""

    def __init__(self) -> None:
        super().__init__("torch.compile")
        self.name = "torch.compile of a step"

    def refuses(self, case: Case) -> str | None:
        """See `Contender`; compiling may need a C++ compiler that is not there."""
        if self.backend not in ops.BACKENDS:
            ops.BACKENDS[self.backend] = self._compile()
        try:
            self.verify(case.shortened(batch=case.batch, steps=2))
        except Exception as error:  # inductor raises many kinds
            return f"cannot compile: {str(error).splitlines()[0]}"
        return None

    @staticmethod
    def _compile() -> ops.Backend:
        step = torch.compile(reference.step)

        def run(*arguments: Any, **options: Any) -> Any:
            with patch.object(reference, "step", step):
                return reference.recurrence(*arguments, **options)

        return ops.Backend("torch.compile", run, lambda dtype, dynamics: None, "the reference's step, compiled")


class Lstm:
    """nn.LSTM with as many parameters and a linear read-out."""

    name = "nn.LSTM, same P"

    def refuses(self, case: Case) -> None:
        """Never."""

    def verify(self, case: Case) -> None:
        """There is nothing to compare with: another model."""

    def _model(self, case: Case) -> nn.ModuleDict:
        n_in, n_out = case.network.inputs, case.network.outputs
        budget = case.build("reference").count_parameters()

        def count(h: int) -> int:
            return 4 * h * (n_in + h + 2) + n_out * (h + 1)

        size = next(h for h in range(1, budget) if count(h + 1) > budget)
        return nn.ModuleDict({"lstm": nn.LSTM(n_in, size, batch_first=True), "linear": nn.Linear(size, n_out)})

    def training(self, case: Case) -> Callable[[], float]:
        """See `Contender`."""
        model, (x, y) = self._model(case), case.data

        def loss() -> Tensor:
            dense = x if case.network.token_scale is None else F.one_hot(x, case.network.inputs).float()
            return case.loss(model["linear"](model["lstm"](dense)[0]), y)

        return _trainer(model, loss)

    def streaming(self, case: Case) -> Callable[[], Any]:
        """See `Contender`."""
        model, x = self._model(case), torch.zeros(1, 1, case.network.inputs)
        state: Any = None

        @torch.no_grad()
        def step() -> None:
            nonlocal state
            out, state = model["lstm"](x, state)
            model["linear"](out)

        return step


class Jax:
    """A JAX baseline; see `elmnet.bench.jax_baselines`."""

    def __init__(self, kind: Literal["A", "B"]) -> None:
        self.kind = kind
        self.name = "JAX A (vmap, scan)" if kind == "A" else "JAX B (tuned)"

    def refuses(self, case: Case) -> str | None:
        """See `Contender`."""
        if find_spec("jax") is None or find_spec("optax") is None:
            return "needs JAX: pip install 'elmnet[bench]'"
        return None

    def _baseline(self, case: Case) -> "Baseline":
        from elmnet.bench.jax_baselines import Baseline

        return Baseline(self.kind, case.build("reference"))

    def verify(self, case: Case) -> float:
        """See `Contender`."""
        x, y = (tensor.numpy() for tensor in case.data)
        loss, gradients = self._baseline(case).loss_and_gradients(x, y, case.last_step)
        return worst_error(case, loss, {name: torch.from_numpy(grad.copy()) for name, grad in gradients.items()})

    def training(self, case: Case) -> Callable[[], float]:
        """See `Contender`."""
        x, y = (tensor.numpy() for tensor in case.data)
        return self._baseline(case).training_step(x, y, case.last_step)

    def streaming(self, case: Case) -> Callable[[], Any] | None:
        """See `Contender`; B's gains lie in whole sequences, its step would be A's."""
        return self._baseline(case).streaming_step() if self.kind == "A" else None
