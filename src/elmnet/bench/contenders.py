"""Who takes part: every backend of this installation, torch.compile, nn.LSTM, and JAX where it is installed."""

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Protocol
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elmnet import ops
from elmnet.bench.cases import Case
from elmnet.errors import ElmnetError, in_a_line
from elmnet.network import ELMNetwork
from elmnet.ops import reference

if TYPE_CHECKING:
    from elmnet.bench.jax_baselines import Baseline

TOLERANCE = 1e-4
"""Relative L2 error of the loss and of every gradient, float32 against the reference in float64, that still counts as
the same network. Rounding is below 1e-6. Where it carries a ReLU across its kink the gradient jumps (3e-3 was seen),
and a right contender is refused: better than a wrong one timed."""
COMPILE_SECONDS = 300.0
"""After which torch.compile is given up."""
OLDEST_JAX = (0, 10)
"""Older ones end the whole process at the XLA flag that the baselines set."""


class Contender(Protocol):
    """One way to train and run a case's network."""

    name: str

    def refuses(self, case: Case) -> str | None:
        """Why it cannot take part; None: it can."""

    def verify(self, case: Case) -> float | None:
        """Worst relative error of loss, gradients and streamed outputs against the reference on a small piece of the
        case; None: another model, no twin."""

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


def trainer(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], float]:
    """One full step in torch."""

    def pull() -> Tensor:
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    return learner(model, pull)


def learner(model: nn.Module, pull: Callable[[], Tensor]) -> Callable[[], float]:
    """One full step in torch around a forward and backward pass that returns the loss."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step() -> float:
        optimiser.zero_grad()
        value = pull()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        return value.item()

    return step


@torch.no_grad()
def streaming_error(case: Case, network: ELMNetwork) -> float:
    """Relative L2 error of one sequence's outputs, computed step by step as they are timed."""
    x = case.data[0][:1]
    exact = case.build("reference").double()
    want = exact(x.double() if x.is_floating_point() else x)[0]
    state, got = None, []
    for t in range(x.shape[1]):
        out, state = network.step(x[:, t], state)
        got.append(out.double())
    error = float((torch.stack(got, 1) - want).norm() / want.norm())
    return error if error == error else math.inf


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
        network = case.build(self.backend)
        trained = worst_error(case, *_loss_and_gradients(case, network))
        return max(trained, streaming_error(case, network.eval()))

    def training(self, case: Case) -> Callable[[], float]:
        """See `Contender`."""
        network, (x, y) = case.build(self.backend), case.data
        return trainer(network, lambda: case.loss(network(x)[0], y))

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
        ops.BACKENDS[self.backend] = self._compile()
        try:
            with _at_most(COMPILE_SECONDS):
                self.verify(case.shortened(batch=case.batch, steps=2))
        except Exception as error:  # inductor raises many kinds
            return f"cannot compile: {in_a_line(error)}"
        return None

    def streaming(self, case: Case) -> Callable[[], Any]:
        """See `Contender`."""
        torch._dynamo.reset()
        return super().streaming(case)

    @staticmethod
    def _compile() -> ops.Backend:
        """Compiled for exactly the shapes at hand, anew for every case: past 8 variants of a function torch would run
        it eagerly without a word. `fullgraph` makes that, and a graph in pieces, an error."""
        torch._dynamo.reset()
        compiled = torch.compile(reference.step, dynamic=False, fullgraph=True)

        def step(x_t: Tensor, *rest: Any) -> Any:
            return compiled(x_t.contiguous(), *rest)  # strides of a slice would be a variant for every T

        def run(*arguments: Any, **options: Any) -> Any:
            with patch.object(reference, "step", step):
                return reference.recurrence(*arguments, **options)

        return ops.Backend("torch.compile", run, lambda device, dtype, dynamics: None, "the reference's step, compiled")


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what takes longer; without effect where there are no timer signals."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


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

        return trainer(model, loss)

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
        version = metadata.version("jax")
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_JAX:
            return f"needs JAX {'.'.join(map(str, OLDEST_JAX))} or newer, this is {version}"
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
