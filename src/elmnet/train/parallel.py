"""One network trained by several processes (`torchrun`): each takes a part of every batch, gradients are averaged.

    torchrun --nproc-per-node 2 -m elmnet train enwik8      # and in a script of one's own:

    with parallel.group() as team:             # gloo on CPUs, nccl on GPUs; a team of one without torchrun
        team.spread(network)                   # everybody starts from the first one's weights
        x, y = team.part(x), team.part(y)      # of a batch that everybody drew alike
        loss(network(x)[0], y).backward()      # a mean over sequences
        team.average(network)                  # now everybody holds the gradient of the whole batch
        clip_grad_norm_(...); optimizer.step() # the same step everywhere

Equal to one process within rounding: sums are taken in another order. Draw dropout masks for the whole batch and take a
part of them, as `elmnet train` does, or seed the processes apart.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module

import torch
from torch import Tensor, distributed, nn

from elmnet.errors import RunError, ShapeError

PATIENCE = timedelta(days=1)
"""How long the others wait while the first one scores."""


@dataclass(frozen=True)
class Team:
    """The processes that train one network."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """This process's sequences of a batch (B, ...): an equal share, so that means of shares average to the mean.

        Raises:
            ShapeError: the batch cannot be shared equally.
        """
        if len(batch) % self.size:
            raise ShapeError(f"a batch of {len(batch)} cannot be shared equally by {self.size} processes")
        return batch.chunk(self.size)[self.rank]

    @torch.no_grad()
    def spread(self, network: nn.Module) -> None:
        """Give everybody the first one's parameters and buffers, the connectome included."""
        if self.size > 1:
            for tensor in (*network.parameters(), *network.buffers()):
                distributed.broadcast(tensor.data, 0)

    @torch.no_grad()
    def average(self, network: nn.Module) -> None:
        """Average all gradients in one exchange."""
        grads = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        if self.size == 1 or not grads:
            return
        flat = torch.cat([grad.flatten() for grad in grads])
        distributed.all_reduce(flat)
        flat /= self.size
        for grad, mean in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view_as(grad))

    def mean(self, values: Tensor) -> Tensor:
        """The mean of everybody's numbers, a tensor on the CPU, for example of losses."""
        if self.size == 1:
            return values
        values = values.clone()
        distributed.all_reduce(values)
        return values / self.size

    def most(self, value: int) -> int:
        """The largest of everybody's numbers."""
        if self.size == 1:
            return value
        largest = torch.tensor(value)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest)

    def tell(self, value: int) -> int:
        """The first one's number; what the others pass does not matter."""
        if self.size == 1:
            return value
        told = torch.tensor(value)
        distributed.broadcast(told, 0)
        return int(told)

    def join(self, part: Tensor) -> Tensor:
        """Everybody's part (B / size, ...) of a batch, as one (B, ...): the inverse of `part`."""
        if self.size == 1:
            return part
        parts = [torch.empty_like(part) for _ in range(self.size)]
        distributed.all_gather(parts, part.contiguous())
        return torch.cat(parts)


@contextmanager
def group() -> Iterator[Team]:
    """Join the processes that `torchrun` started; alone where it did not.

    Raises:
        RunError: torchrun's variables are there, but the others cannot be reached.
    """
    if "WORLD_SIZE" not in os.environ:
        yield Team()
        return
    # torch imports this one when it is first needed; its functions then take the group as a default argument, and hold
    # it, with gloo's threads, until the interpreter falls apart around them
    import_module("torch.distributed.nn.functional")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpus = torch.cuda.is_available() and torch.cuda.device_count() >= here  # one for each process of this host
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"cannot join the processes that torchrun started: {error}") from error
    try:
        yield Team(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
