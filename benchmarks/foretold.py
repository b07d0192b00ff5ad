"""What a law fitted to tables of earlier runs foretells of other networks, beside what was found in training them.

    cd docs/results
    python ../../benchmarks/foretold.py --data TEXT enwik8-{sweep,axes,chosen-synapses}.csv --new enwik8-pareto.csv

Tables are those of `elmnet sweep collect --out FILE.csv`; the text gives the networks' read-out and the score of a
guess by frequency. `--figure FILE` draws all runs and the law fitted to all of them.
"""

import argparse
import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from elmnet import budget
from elmnet.report import figures
from elmnet.tasks import open_task
from elmnet.theory import fit
from elmnet.theory.front import read_front
from elmnet.theory.kinds import score_of
from elmnet.theory.planner import Prediction, predict
from elmnet.theory.rows import network_of, runs_of_rows
from elmnet.train.config import compose


def rows_of(files: Sequence[Path], steps: int) -> list[dict[str, str]]:
    """Every finished run of so many steps in these tables, once."""
    lines = [line for file in files for line in csv.DictReader(file.read_text().splitlines())]
    done = [line for line in lines if line["state"] == "done" and int(line["steps"]) == steps]
    return list({line["trial"]: line for line in done}.values())


def markdown(predictions: Sequence[Prediction], found: Sequence[float]) -> list[str]:
    """A line for every network."""
    lines = ["| P' | N | d_m | branches × synapses | foretold | found | |", "|--:|--:|--:|--:|---|--:|---|"]
    for one, score in zip(predictions, found, strict=True):
        layer, cost = one.network.layers[0], budget.cost(one.network)
        low, high = one.interval or (np.nan, np.nan)
        place = "" if low <= score <= high else f"{1000 * (score - (high if score > high else low)):+.0f} mbpc"
        shape = f"{layer.neuron.branches} × {layer.neuron.synapses}"
        words = (f"{cost.hidden:,}", f"{layer.units:,}", f"{layer.neuron.memory}", shape)
        lines.append(f"| {' | '.join(words)} | {one.loss:.3f} ({low:.3f} … {high:.3f}) | {score:.3f} | {place} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path, help="to learn from")
    parser.add_argument("--new", type=Path, required=True, help="the other networks")
    parser.add_argument("--data", required=True, help="the text they were trained on")
    parser.add_argument("--steps", type=int, default=4000, help="training steps of the runs that count")
    parser.add_argument("--least-memory", type=int, default=budget.LEAST_MEMORY, help="smallest d_m to learn from")
    parser.add_argument("--figure", type=Path, help="an .svg file")
    arguments = parser.parse_args()
    config = compose("enwik8", preset="small", data=arguments.data)
    task = open_task("enwik8", config.options, config.data)
    start = task.fit_model(config.model)
    H0 = max(one["valid"]["bpc"] for one in task.baselines().values())
    runs = partial(runs_of_rows, start=start, H0=H0, score="valid_bpc")
    earlier, new = (rows_of(files, arguments.steps) for files in (arguments.tables, [arguments.new]))
    new.sort(key=lambda row: (round(np.log(int(row["hidden"])), 1), int(row["d_m"])))
    known = fit(runs(earlier, source=f"{len(earlier)} earlier runs"), least_memory=arguments.least_memory)
    predictions = predict(known, [network_of(row, start) for row in new])
    found = [score_of(row, "valid_bpc") for row in new]
    off = 1000 * (np.array(found) - [one.loss for one in predictions])
    inside = sum(
        one.interval[0] <= score <= one.interval[1]
        for one, score in zip(predictions, found, strict=True)
        if one.interval
    )
    print("\n".join(markdown(predictions, found)))
    print(f"\n{len(known.runs)} runs fitted, standard deviation of a run {1000 * known.sd:.0f} mbpc")
    print(
        f"{len(new)} new ones, {inside} within 95 % of the law; off by {off.mean():+.0f} mbpc on average, "
        f"{np.sqrt((off**2).mean()):.0f} rms"
    )
    every = runs([*earlier, *new], source=f"{len(earlier)} earlier runs and {len(new)} new ones")
    both = fit(every, least_memory=arguments.least_memory)
    print("fitted to all:", {name: round(float(getattr(both.law, name)), 3) for name in both.free})
    front = read_front(both.runs.hidden, both.runs.y, both.sd)
    law, (low, high) = front.law, front.alpha or (np.nan, np.nan)
    print(
        f"front, without the model: {int(front.near.sum())} runs, P' {law.P_min:,.0f} to {law.P_max:,.0f}: "
        f"L_inf {law.L_inf:.3f}, exponent {law.alpha:.2f} ({low:.2f} … {high:.2f})"
    )
    if arguments.figure:
        arguments.figure.write_text(figures.svg(lambda: figures.front(both)))


if __name__ == "__main__":
    main()
