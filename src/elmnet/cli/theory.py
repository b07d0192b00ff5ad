"""The theory: fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from elmnet.budget import LEAST_MEMORY
from elmnet.cli.output import JsonOption, say, show, write_json
from elmnet.errors import ConfigError
from elmnet.tables import between

if TYPE_CHECKING:
    from elmnet.sweep.learned import Learned
    from elmnet.theory.fit import Fit

NetworkOption = Annotated[
    str | None,
    typer.Option(
        help="for a table that `sweep collect` did not write: enwik8, a run or its YAML; rows vary its hidden layer",
        metavar="NAME|RUN",
    ),
]
H0Option = Annotated[
    float | None,
    typer.Option(help="for such a table: the score of a guess that knows nothing, e.g. 5.05 bits", metavar="H0"),
]


def fit(
    sources: Annotated[
        list[str],
        typer.Argument(help="directories of finished runs, a table, or published:TASK", metavar="SOURCE"),
    ],
    score: Annotated[str | None, typer.Option(help="e.g. valid_bpc, test_bpc, valid_loss, test_error")] = None,
    network: NetworkOption = None,
    h0: H0Option = None,
    draws: Annotated[int, typer.Option(help="bootstrap samples; 0: no intervals")] = 300,
    fix: Annotated[list[str] | None, typer.Option(help="hold a constant: a=0.8 or kappa_c=40; repeatable")] = None,
    least_memory: Annotated[
        int, typer.Option(help="smallest d_m to fit; below 3 some tasks do not start to learn")
    ] = LEAST_MEMORY,
    compare: Annotated[
        bool, typer.Option("--compare", help="also fit simpler alternatives, and a profile over the exponent a")
    ] = False,
    seed: Annotated[int, typer.Option(help="seed of the bootstrap")] = 0,
    figures: Annotated[Path | None, typer.Option(help="write figures here, PNG and SVG", metavar="DIR")] = None,
    file: JsonOption = None,
) -> None:
    """Fit the information model to runs: constants with intervals, what runs cannot determine, which are left out."""
    if sources == ["published:neuronio"]:
        others = figures or compare or fix or score or network or (draws, seed) != (300, 0)
        if others or h0 is not None or least_memory != LEAST_MEMORY:
            raise ConfigError("published:neuronio holds single neurons: no options but --json")
        _unit_fit(file)
        return
    from elmnet.sweep.learned import learn
    from elmnet.theory import answers

    learned = learn(sources, score, network, h0)
    skipped = learned.skipped
    if draws < 0 or 0 < draws < 20:
        raise ConfigError(f"--draws must be 0 or at least 20, which an interval needs, got {draws}")
    if seed < 0:
        raise ConfigError(f"--seed must not be negative, got {seed}")
    check_least_memory(least_memory)
    known = fitted(learned, draws=draws, fixed=_constants(fix or []), seed=seed, least_memory=least_memory)
    if compare and known.runs.hidden.max() > 1.1 * known.runs.hidden.min():
        raise ConfigError("--compare describes one fixed-budget curve; these runs have several budgets")
    show(answers.constants(known, f"{known.runs.source}: {known.runs.score}"))
    for words in answers.fit_remarks(known, skipped):
        say(words)
    if known.runs.hidden.max() >= 100 * known.runs.hidden.min():
        _front(known, draws, seed)
    give_credit()
    if file is not None:
        write_json(file, {**known.to_dict(), "left_out": {**known.excluded, **skipped}})
    if figures is not None:
        from elmnet.report.figures import of_fit, save

        announce(save(of_fit(known), figures))
    if compare:
        _compare(known)


def check_least_memory(value: int) -> None:
    """Refuse what no plan considers."""
    from elmnet.theory.planner import MOST_MEMORY

    if not 1 <= value <= MOST_MEMORY:
        raise ConfigError(f"--least-memory must be 1 to {MOST_MEMORY}, got {value}")


def fitted(learned: "Learned", **options: Any) -> "Fit":
    """A fit (`elmnet.theory.fit`); says what makes it doubtful."""
    from elmnet.theory.fit import fit as fit_runs

    assert learned.runs is not None
    known = fit_runs(learned.runs, **options)
    for words in known.cautions:
        say(f"caution: {words}", style="yellow")
    return known


def _constants(settings: Sequence[str]) -> dict[str, float]:
    held = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        try:
            held[name] = float(text)
        except ValueError:
            raise ConfigError(f"--fix: expected NAME=NUMBER, got {setting!r}") from None
    return held


def _unit_fit(file: Path | None) -> None:
    """NeuronIO: the law of a single neuron's signal-to-noise, measured directly."""
    import numpy as np

    from elmnet.theory import answers
    from elmnet.theory.plain import fit_unit
    from elmnet.theory.rows import published_rows

    rows = published_rows("neuronio")
    explained = np.array([row["test_soma_explained_variance_percent"] for row in rows]) / 100
    synapses = np.array([row["num_branch"] * row["num_synapse_per_branch"] for row in rows])
    k_e, eta = np.array([row["trainable_params"] for row in rows]) - synapses, explained / (1 - explained)
    fits = {"a = 1": fit_unit(k_e, eta), "a free": fit_unit(k_e, eta, free_exponent=True)}
    show(answers.neurons(fits, f"published:neuronio ({len(rows)} single neurons)"))
    say("η = EV/(1 - EV), EV the explained variance of the soma on the test data")
    give_credit()
    if file is not None:
        write_json(file, [one._asdict() for one in fits.values()])


def _front(known: "Fit", draws: int, seed: int) -> None:
    """The front of runs that span two decades, read without the model."""
    from elmnet.errors import TheoryError
    from elmnet.theory import answers
    from elmnet.theory.front import gaps, read_front

    runs = known.runs
    try:
        with Console(stderr=True).status("resampling the front"):
            front = read_front(runs.hidden, runs.y, known.sd, draws=draws, seed=seed)
    except TheoryError as error:
        say(f"no power law: {error}")
        return
    law, below = front.law, front.quantile
    interval = f"(95 % {between(front.alpha, '.3f')}, of {front.kept} of {draws} resampled sets)"
    if front.alpha is None:
        interval = f"(no interval: {front.kept} of {draws} resampled sets have such a front)" if draws else ""
    lines = [
        f"near the front: {int(front.near.sum())} of {len(runs)} runs",
        f"effective power law over P' = {law.P_min:,.0f} to {law.P_max:,.0f}: L_inf {law.L_inf:.4f}, "
        f"P_c {law.P_c:,.3g}, exponent {law.alpha:.3f} {interval}, correlated with L_inf; do not extrapolate",
        "pinball check, the power law that a tenth of all runs undercut: "
        f"L_inf {below.L_inf:.4f}, P_c {below.P_c:,.3g}, exponent {below.alpha:.3f}",
    ]
    for line in lines:
        say(line)
    if known.worlds is not None:
        with Console(stderr=True).status("resampling the pinball curve"):
            found = gaps(known, seed=seed)
        show(answers.gaps(known, found))


def _compare(known: "Fit") -> None:
    import numpy as np

    from elmnet.theory import answers
    from elmnet.theory.compare import judge, profile

    runs = known.runs
    ordered = np.sort(runs.d_m)
    few = max(3, len(runs) // 5)
    low, high = float(ordered[few - 2]), float(ordered[-few - 1]) if len(runs) >= 12 else float(ordered[-3])
    show(answers.forms(runs, judge(runs, low, high), low, high))
    show(answers.profile(runs, profile(runs, [0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0])))


def give_credit() -> None:
    """Whose the model is, and whose the rest."""
    from elmnet.theory.model import CREDIT

    say(CREDIT, style="dim")


def announce(files: Sequence[Path]) -> None:
    for path in files:
        say(path)
