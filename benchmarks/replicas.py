"""k networks trained together against one after the other: time of a training step, side by side in one run.

    python benchmarks/replicas.py [--replicas 1,2,4,8] [--repeats 15] [--threads 1]

Forward, backward, clipping and optimiser of ELM networks of the task enwik8 (random tokens, batch 8, 100 steps), three
sizes, backend `auto`; medians of interleaved repeats.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from elmnet import ELMNetwork, NetworkConfig, budget
from elmnet.replicas import Replicas
from elmnet.train.config import compose

BATCH, STEPS = 8, 100


def stepper(config: NetworkConfig, count: int, *, together: bool) -> Callable[[], None]:
    """What trains `count` networks by one step."""
    trained = [ELMNetwork(config, seed=seed) for seed in range(count)]
    optimizers = [torch.optim.Adam(network.parameters()) for network in trained]
    replicas = Replicas(trained)
    tokens = torch.randint(config.inputs, (count, BATCH, STEPS + 1))

    def outputs() -> list[torch.Tensor]:
        if together:
            return list(replicas(tokens[:, :, :-1])[0])
        return [network(own[:, :-1])[0] for network, own in zip(trained, tokens, strict=True)]

    def step() -> None:
        losses = [
            F.cross_entropy(out.flatten(0, 1), own[:, 1:].flatten()) for out, own in zip(outputs(), tokens, strict=True)
        ]
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        for network, optimizer in zip(trained, optimizers, strict=True):
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return step


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", default="1,2,4,8", help="k, separated by commas")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    published = compose("enwik8").model
    assert isinstance(published, NetworkConfig)
    sizes = {
        "8 units, affine read-out": published.with_hidden(units=8).replace(readout="linear"),
        "32 units, affine read-out": published.with_hidden(units=32).replace(readout="linear"),
        "preset tiny": published,
    }
    table = Table("network", "P", "k", "one by one, ms", "together, ms", "ratio")
    for name, config in sizes.items():
        config = config.replace(inputs=204, outputs=204)
        for count in map(int, chosen.replicas.split(",")):
            steppers = {together: stepper(config, count, together=together) for together in (False, True)}
            times: dict[bool, list[float]] = {False: [], True: []}
            for repeat in range(chosen.repeats + 2):
                for together, step in steppers.items():
                    start = time.perf_counter()
                    step()
                    if repeat >= 2:
                        times[together].append(1000 * (time.perf_counter() - start))
            alone, joint = (statistics.median(times[together]) for together in (False, True))
            size = budget.parameters(config)
            table.add_row(name, f"{size:,}", str(count), f"{alone:.1f}", f"{joint:.1f}", f"{alone / joint:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
