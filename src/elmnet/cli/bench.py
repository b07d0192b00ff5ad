"""Speed: bench."""

import os
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from elmnet.cli.output import STDOUT, JsonOption, say, show, write_json
from elmnet.errors import ConfigError

if TYPE_CHECKING:
    from elmnet.bench.cases import Case


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="two small cases, few rounds, no torch.compile")] = False,
    cases: Annotated[list[str] | None, typer.Option("--case", help="one of four; repeatable; default: all")] = None,
    only: Annotated[
        list[str] | None, typer.Option("--contender", help="part of a contender's name; repeatable")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of every contender")] = 2,
    rounds: Annotated[
        int | None, typer.Option(help="timed steps of each contender, at most; default: 15, 5 with --quick")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="a contender that takes longer in all stops after 3 steps; default: 60, 5 with --quick"),
    ] = None,
    streaming: Annotated[bool, typer.Option("--streaming/--no-streaming", help="also single steps at batch 1")] = True,
    file: JsonOption = None,
) -> None:
    """Time a full training step and a streaming step of every backend, side by side with JAX and nn.LSTM.

    A contender whose loss or gradients disagree with the float64 reference is not timed. Input is synthetic.
    """
    import torch

    from elmnet.bench import harness
    from elmnet.bench.cases import CASES
    from elmnet.bench.contenders import contenders
    from elmnet.budget import cost, training_flops

    for name in cases or []:
        if name not in CASES:
            raise ConfigError(f"--case must be one of {', '.join(CASES)}, got {name!r}")
    if threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {threads}")
    rounds = rounds if rounds is not None else 5 if quick else 15
    seconds = seconds if seconds is not None else 5.0 if quick else 60.0
    if rounds < 1:
        raise ConfigError(f"--rounds must be at least 1, got {rounds}")
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):  # JAX takes every core it may run on
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["JAX_PLATFORMS"] = "cpu"  # where torch computes, too
    entrants = [c for c in contenders(quick=quick) if not only or any(part in c.name for part in only)]
    if not entrants:
        raise ConfigError(f"--contender matches nobody; there are {', '.join(c.name for c in contenders())}")
    chosen = [CASES[name] for name in cases or (["enwik8-small", "shd"] if quick else list(CASES))]
    described = harness.machine()
    peak = harness.attainable()
    for name, value in described.items():
        say(f"{name:>12}  {value}")
    say(f"{'sgemm':>12}  {peak / 1e9:.0f} GFLOP/s")
    everything: dict[str, object] = {"machine": described, "sgemm_flops": peak}
    with Console(stderr=True).status("") as status:
        for case in chosen:
            judged = harness.judge(case, entrants, note=status.update)
            for stream in (False, True) if streaming and case.batch <= 8 else (False,):
                results = harness.run(
                    case, entrants, judged, streaming=stream, rounds=rounds, seconds=seconds, note=status.update
                )
                flops = None if stream else training_flops(cost(case.network).flops, case.batch, case.steps)
                timed = [result for result in results if result.seconds]
                show(harness.table(f"{case.name}, {_what(case, stream)}, synthetic input", timed, flops, peak))
                for result in results:
                    if result.refused is not None:
                        say(f"not timed: {result.contender}: {result.refused}", "yellow")
                everything[f"{case.name} {'streaming' if stream else 'training'}"] = [vars(r) for r in results]
                if file not in (None, STDOUT):
                    write_json(file, everything)  # what is measured so far, should somebody stop it
    if file == STDOUT:
        write_json(file, everything)


def _what(case: "Case", stream: bool) -> str:
    if stream:
        return "one step of one sequence"
    return f"training step at batch {case.batch}, T {case.steps}, P {case.build('reference').count_parameters():,}"
