"""A network in training, step by step; nothing here touches the disk.

Everything that influences the next step is either a pure function of (configuration, step) - batches, schedules,
resets - or part of a checkpoint: weights, optimiser, carried state, torch's random generators.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from elmnet import models
from elmnet.errors import ConfigError, DivergedError, ElmnetError, RunError
from elmnet.models import Network, State
from elmnet.network import ELMNetwork
from elmnet.ops import Masks
from elmnet.tasks import Batch, Task
from elmnet.train import capture, warm
from elmnet.train.capture import Given, Pulled
from elmnet.train.checkpoint import generators, pack, set_generators, unpack
from elmnet.train.config import RunConfig, TrainConfig
from elmnet.train.evaluate import precision
from elmnet.train.objective import learning_rate, monitored, penalty, resets
from elmnet.train.parallel import Team

_DECAYING = ("w_s", "readout", "weight")
"""What begins a parameter's own name, if weight decay is for it: not for biases and timescales."""


class Lesson(NamedTuple):
    """What a step was like, for the log."""

    loss: float
    error: float
    """The task's own part of the loss."""
    gradient_norm: float
    """Before clipping."""
    learning_rate: float
    items: int
    """Targets in the whole batch."""


class Learner:
    """One network, its optimiser and the state it carries.

    Args:
        config: what to do.
        task: the opened task of that configuration.
        team: the processes that train this network together; all take part in every step.
        cuda_graph: capture the forward and backward pass.

    Raises:
        ConfigError: it cannot be captured, or the settings do not suit the task.
        ShapeError: a batch cannot be shared by the team.
    """

    def __init__(self, config: RunConfig, task: Task, *, team: Team | None = None, cuda_graph: bool = False) -> None:
        self.config, self.task, self.team, self.cuda_graph = config, task, team or Team(), cuda_graph
        if config.training.label_smoothing and task.criterion != "cross_entropy":
            raise ConfigError(f"training.label_smoothing is of classes; what {task.name} minimises here is no entropy")
        if self.team.size > 1:
            self.team.part(task.training_batch(0).x)  # refuses what cannot be shared
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.network = _build(config)
        if cuda_graph and (reason := capture.refuses(self)):
            raise ConfigError(f"--cuda-graph cannot capture this run's steps: {reason}")
        if config.training.train_only == "readout":
            warm.freeze_hidden(self.network)
        self.optimizer = _optimizer(self.network, config.training)
        self.step = 0
        self.state: State | None = None
        self._generators: dict[str, Tensor] | None = None

    def keep_generators(self) -> None:
        """Draw dropout as if no other run of this process did."""
        self._generators = generators(self.network.device)

    @contextmanager
    def _drawing(self) -> Iterator[None]:
        """With this run's own random generators in place."""
        device = self.network.device
        if self._generators is not None:
            set_generators(self._generators, device)
        yield
        if self._generators is not None:
            self._generators = generators(device)

    def take(self) -> Given:
        """What the next step needs: this process's part of it, and no gradients from before."""
        self.optimizer.zero_grad(set_to_none=True)
        batch, team, device = self.task.training_batch(self.step), self.team, self.network.device
        masks = None
        if isinstance(self.network, ELMNetwork):
            with self._drawing():
                drawn = self.network.draw_masks(len(batch.x))
            masks = [Masks(*(None if mask is None else team.part(mask) for mask in layer)) for layer in drawn]
        x, y = team.part(batch.x), team.part(batch.y)
        lengths = None if batch.lengths is None else team.part(batch.lengths)
        share = 1.0 if team.size == 1 else team.size * self.task.weight(y) / self.task.weight(batch.y)
        return Given(x.to(device), y.to(device), self._start(batch, len(x)), lengths, masks, share)

    def _start(self, batch: Batch, sequences: int) -> State:
        """The state before a step: what the last one left, or none."""
        if self.state is None or batch.fresh or resets(self.step, self.config.training, self.config.seed):
            return self.network.initial_state(sequences)
        return self.state

    def pull(self, given: Given) -> Pulled:
        """Forward and backward pass of this run alone."""
        more: dict[str, Any] = {} if given.masks is None else {"masks": given.masks}
        wanted = monitored(self.config.training)
        with self.precision():
            out, state, signals = self.network(given.x, given.state, given.lengths, monitor=wanted, **more)
        loss, error = self.objective(given, out, signals[0])
        loss.backward()  # type: ignore[no-untyped-call]
        return Pulled(state, loss, error)

    def precision(self) -> torch.autocast:
        """Around the network's forward pass."""
        return precision(self.config, self.network)

    def objective(self, given: Given, out: Tensor, signals: Any) -> tuple[Tensor, Tensor]:
        """What to minimise, and the task's own part of it."""
        out = out.to(self.network.dtype)  # of lower precision under autocast
        error = self.task.loss(out, given.y, self.config.training.label_smoothing) * given.share
        return error + penalty(signals, self.config.training, given.lengths), error

    def learn(self, given: Given, pulled: Pulled) -> Lesson:
        """Change the weights, once there are gradients.

        Raises:
            DivergedError: the loss or gradient is not finite; the weights are as they were.
        """
        settings = self.config.training
        self.team.average(self.network)
        sums = torch.stack([pulled.loss.detach(), pulled.error.detach()]).double().cpu()
        loss, error = self.team.mean(sums).tolist()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            words = f"loss {loss}, gradient norm {norm}; the weights were left as they were before it"
            raise DivergedError(f"step {self.step}: {words}")
        rate = learning_rate(self.step, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.state = pulled.state.detach()
        self.step += 1
        return Lesson(loss, error, norm, rate, given.y.numel() * self.team.size)

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weights, and all else that the next step depends on; everybody in the team calls this."""
        state = None if self.state is None else self.state.map(self.team.join)
        with self._drawing():
            return self.network.state_dict(), pack(self.network, self.optimizer, state)

    def take_over(self, weights: dict[str, Tensor], others: dict[str, Tensor], step: int) -> None:
        """The inverse of `tensors`.

        Raises:
            KeyError, ValueError, RuntimeError: they are of another network or optimiser.
        """
        self.network.load_state_dict(weights)
        with self._drawing():
            state = unpack(others, self.network, self.optimizer)
        self.state = None if state is None else state.map(self.team.part)
        self.step = step


def _optimizer(network: Network, settings: TrainConfig) -> torch.optim.Optimizer:
    """Of all parameters that learn."""
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    if settings.optimizer == "adam":
        return torch.optim.Adam(trained.values(), lr=settings.learning_rate)
    if settings.optimizer == "adamax":
        return torch.optim.Adamax(trained.values(), lr=settings.learning_rate)
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, parameter in trained.items():
        groups[name.rpartition(".")[2].startswith(_DECAYING) and parameter.dim() > 1].append(parameter)
    decays = [{"params": some, "weight_decay": settings.weight_decay * decaying} for decaying, some in groups.items()]
    return torch.optim.AdamW(decays, lr=settings.learning_rate)


_SCARCE = re.compile("out of memory|not enough memory|allocate memory|bad_alloc")  # not: an illegal memory access


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Around what takes memory.

    Raises:
        RunError: there is not enough for `what`.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        words = " ".join(str(error).split())
        if isinstance(error, ElmnetError) or not (isinstance(error, MemoryError) or _SCARCE.search(words)):
            raise
        raise RunError(f"not enough memory for {what}: {words[:300]}") from error


def _build(config: RunConfig) -> Network:
    """The untrained network, after asking whether a backend can run it, and there is its device."""
    config.require_device()
    with enough_memory(f"{models.counts(config.model).parameters:,} parameters"):
        network = models.build(config.model, seed=config.seed, backend=config.backend)
    dtype = torch.float32 if config.dtype == "bf16-mixed" else getattr(torch, config.dtype)
    network.to(device=torch.device(config.device), dtype=dtype).train()
    network.backends()
    return network
