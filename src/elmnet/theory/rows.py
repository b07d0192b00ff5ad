"""Runs from rows of figures, sizes and scores by name: the published tables, and anybody's."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from elmnet import budget
from elmnet.config import NetworkConfig
from elmnet.errors import ConfigError, TheoryError
from elmnet.theory.kinds import SCORES, Row, given, kind_of, require_possible, score_of, scores_of
from elmnet.theory.runs import Runs, table

SIZES = {
    "units": ("N", "num_hidden"),
    "memory": ("d_m", "num_memory"),
    "hidden": ("d_mlp",),
    "branches": ("d_tree", "num_branch"),
    "synapses": ("d_s", "num_synapse_per_branch"),
}
"""Columns that say what a network is made of: elmnet's names, and those of the authors' public code release."""
_PARAMETERS = ("P", "trainable_params")


@dataclass(frozen=True)
class _Published:
    """A table of the authors' public code release."""

    file: str
    preset: str
    scores: tuple[str, ...]
    ignorance: Mapping[str, float]


PUBLISHED = {
    "enwik8": _Published("enwik8_fixed_budget.csv", "enwik8", ("valid_bpc", "test_bpc", "train_bpc"), {"bpc": 5.05}),
    "shd-adding": _Published(
        "shd_adding_fixed_budget.csv",
        "shd-adding",
        tuple(f"{split}_{kind}" for kind in ("loss", "error") for split in ("valid", "test", "train")),
        {"loss": 2.793772, "error": 0.9},
    ),
    "neuronio": _Published("neuronio_single_neuron.csv", "neuronio", ("test_soma_explained_variance",), {}),
}
"""The 36 published runs, one seed each (arXiv:2605.12049, public code release, MIT); H0 from docs/theory.md §1."""


def published_rows(task: str) -> list[dict[str, float]]:
    """The figures of a published table as they stand in its file.

    Raises:
        TheoryError: there is no such table.
    """
    if task not in PUBLISHED:
        raise TheoryError(f"no published runs of {task!r}; there are {', '.join(PUBLISHED)}")
    text = resources.files("elmnet.theory").joinpath("published", PUBLISHED[task].file).read_text(encoding="utf-8")
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(text.splitlines())]


def published(task: str, score: str | None = None) -> Runs:
    """Published runs at a fixed budget.

    Args:
        task: `enwik8` or `shd-adding`.
        score: enwik8: valid_bpc (default), test_bpc, train_bpc; shd-adding: valid_loss (default, nats), test_loss,
            train_loss, valid_error, test_error, train_error.

    Raises:
        TheoryError: no such table or score.
    """
    rows, kind = published_rows(task), PUBLISHED[task]
    if not kind.ignorance:
        raise TheoryError(f"published:{task} holds single neurons; fit_unit fits them (elmnet fit published:{task})")
    score = score or kind.scores[0]
    if score not in kind.scores:
        raise TheoryError(f"published:{task} has no score {score!r}; it has {', '.join(kind.scores)}")
    start = NetworkConfig.preset(kind.preset)
    source = f"published:{task} ({len(rows)} runs of arXiv:2605.12049, one seed each)"
    runs = runs_of_rows(rows, start, H0=kind.ignorance[score.partition("_")[2]], source=source, score=score)
    return replace(runs, network=start, task=task)


def runs_of_rows(
    rows: Sequence[Row], start: NetworkConfig, *, H0: float, source: str, score: str | None = None
) -> Runs:
    """Runs of networks that differ in their hidden layer, from a table of any origin.

    Args:
        rows: a finished run each, its sizes (`network_of`) and scores (`score_of`) by name; also, where the table has
            them, its `name`, `task` and `steps`, a `configuration` that it shares with other seeds, and a `setting`
            that it shares with runs trained alike.
        start: the network whose hidden layer the rows vary.
        H0: score of a network that knows nothing.
        source: where the rows come from, for people.
        score: `valid_bpc`, `test_loss`, ...; None: the first that the rows have.

    Raises:
        TheoryError: no rows; a row without the score, of another network, or of another task.
    """
    if not rows:
        raise TheoryError(f"{source}: no runs")
    if score is None:
        had = {name for row in rows for name in scores_of(row)}
        score = next((name for name in SCORES if name in had), SCORES[0])
    kind, networks, values, steps = kind_of(score), [], [], []
    if not kind.floor < H0:
        raise TheoryError(f"H0, the {score} of knowing nothing, must be positive, got {H0:g}")
    require_possible("H0", H0, kind)
    for number, row in enumerate(rows, 1):
        try:
            networks.append(network_of(row, start))
            values.append(score_of(row, score))
            steps.append(_whole(row, "steps") if given(row, "steps") else None)
        except (ConfigError, TheoryError) as error:
            raise TheoryError(f"{source}: run {number}: {error}") from None
    task, _ = (_only(rows, name, source) for name in ("task", "data"))
    return table(
        networks,
        values,
        names=_names_of(rows, networks),
        configurations=_column(rows, "configuration"),
        task=task,
        steps=steps,
        settings=_column(rows, "setting"),
        source=source,
        score=score,
        H0=H0,
        unit=kind.unit,
        floor=kind.floor,
    )


def _only(rows: Sequence[Row], name: str, source: str) -> str | None:
    """What the rows that say it say; several are refused."""
    found = sorted({str(row[name]) for row in rows if given(row, name)})
    if len(found) > 1:
        raise TheoryError(f"{source}: mixes {', '.join(found)}; fit one")
    return found[0] if found else None


def _names_of(rows: Sequence[Row], networks: Sequence[NetworkConfig]) -> list[str]:
    """A name for every run: its own where no other has it, else by its sizes, and by its place if need be."""
    sizes = [f"d_m {layer.neuron.memory}, N {layer.units}" for layer in (network.layers[0] for network in networks)]
    places = [f"row {number}: {words}" for number, words in enumerate(sizes, 1)]
    return next(names for names in (_column(rows, "name"), sizes, places) if names and len(set(names)) == len(names))


def network_of(row: Row, start: NetworkConfig) -> NetworkConfig:
    """A network with the sizes of a row.

    Args:
        row: N, d_m and perhaps d_mlp, d_tree, d_s, or as the authors' code calls them: num_hidden, num_memory,
            num_branch, num_synapse_per_branch; perhaps P (trainable_params), which is checked.
        start: what the row does not say; d_mlp keeps its proportion to d_m.

    Raises:
        ConfigError: a size is missing or impossible, or the network has another P.
    """
    for names in SIZES.values():
        if len([name for name in names if given(row, name)]) > 1:
            raise ConfigError(f"has both {' and '.join(names)}; keep one")
    sizes = {part: _whole(row, name) for part, names in SIZES.items() for name in names if given(row, name)}
    for part in ("units", "memory"):
        if part not in sizes:
            raise ConfigError(f"has no {' or '.join(SIZES[part])}")
    unit = start.layers[0].neuron.with_memory(sizes["memory"])
    network = start.with_hidden(**{"hidden": unit.hidden, **sizes})
    P = budget.parameters(network)
    for name in _PARAMETERS:
        if given(row, name) and _whole(row, name) != P:
            raise ConfigError(
                f"has {name} {_whole(row, name):,}; a network of its sizes has {P:,}, so inputs, outputs or read-out "
                "are others"
            )
    return network


def _column(rows: Sequence[Row], name: str) -> list[str] | None:
    """A column of words; None where it has gaps."""
    return [str(row[name]) for row in rows] if all(given(row, name) for row in rows) else None


def _whole(row: Row, name: str) -> int:
    try:
        number = float(row[name])
    except (TypeError, ValueError):
        number = float("nan")
    if not number.is_integer():
        raise ConfigError(f"{name} must be a whole number, got {row[name]!r}")
    return int(number)


def read_networks(path: Path, start: NetworkConfig) -> list[NetworkConfig]:
    """Networks from a CSV file of their sizes, as `network_of` takes them.

    Raises:
        ConfigError: it is no such file; the message has the line.
    """
    try:
        head, *rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (ValueError, csv.Error) as error:  # not text, or empty
        raise ConfigError(f"{path}: not a CSV file of text with a line of names ({error})") from None
    if not rows:
        raise ConfigError(f"{path}: has a line of names and no networks")
    if not set(head) <= {name for names in SIZES.values() for name in names} or len(set(head)) < len(head):
        raise ConfigError(
            f"{path}: expected a CSV file with columns N,d_m and perhaps d_tree,d_s,d_mlp, got {','.join(head)}"
        )
    networks = []
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        try:
            networks.append(network_of(dict(zip(head, row, strict=True)), start))
        except ValueError as error:  # ConfigError is one, too
            raise ConfigError(f"{path}, line {number}: {error}") from None
    return networks
