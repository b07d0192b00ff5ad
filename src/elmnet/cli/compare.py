"""What one setting is worth: compare."""

from pathlib import Path
from typing import Annotated

import typer

from elmnet.cli.output import JsonOption, say, show, write_json
from elmnet.cli.theory import announce
from elmnet.errors import ConfigError
from elmnet.files import ending


def compare(
    sources: Annotated[
        list[Path], typer.Argument(help="directories of finished runs, or tables of `sweep collect`", metavar="RUNS")
    ],
    by: Annotated[
        str,
        typer.Option(help="model, N, d_m, d_tree, d_s, k_e, k_c, P, or a setting, e.g. learning_rate", metavar="WHAT"),
    ],
    against: Annotated[
        str | None, typer.Option(help="the value to compare with, e.g. lstm; default: the first one", metavar="VALUE")
    ] = None,
    score: Annotated[str | None, typer.Option(help="e.g. valid_bpc, test_bpc, test_accuracy")] = None,
    within: Annotated[
        list[str] | None,
        typer.Option(
            help="what both runs of a pair must share, e.g. seed; repeatable; default: all that they can",
            metavar="WHAT",
        ),
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="draw the differences here, PNG and SVG", metavar="DIR")] = None,
    file: JsonOption = None,
) -> None:
    """Measure what one setting is worth: differences within pairs of runs that share all else, with intervals."""
    from elmnet.sweep import compare as pairs
    from elmnet.sweep.read import read_finished
    from elmnet.train.results import Finished, finished

    found: list[Finished] = []
    skipped: dict[str, str] = {}
    folders = [source for source in sources if source.is_dir()]
    tables = [source for source in sources if source not in folders]
    for table in tables:
        if ending(table) not in (".csv", ".parquet"):
            raise ConfigError(f"{table} is neither a directory of runs nor a .csv or .parquet table")
    for runs, others in [*map(read_finished, tables), *([finished(*folders)] if folders else [])]:
        found += runs
        skipped |= others
    comparison = pairs.compare(found, by, against=against, score=score, within=within)
    show(comparison.table())
    for words in comparison.remarks():
        say(words)
    if skipped:
        say(f"{len(skipped)} left out: " + "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:3]))
    if file is not None:
        write_json(file, {**comparison.to_dict(), "left_out": skipped})
    if figures is not None:
        from elmnet.report.figures import differences, save

        announce(save({"compare": lambda: differences(comparison)}, figures))
