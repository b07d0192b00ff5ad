"""Models of every kind at one budget: the runs, the choice of learning rates, the second seeds, the table.

    python benchmarks/baselines.py run --out DIR --text FILE.xz --spikes DIR
    python benchmarks/baselines.py table --out DIR --target docs/results/baselines.csv

The rule, written before the first run: every model trains with three learning rates on seed 0; the best *validation*
score of the final evaluation chooses its rate; seed 1 trains at that rate alone. No other setting is tuned. One
process, one thread; what a run leaves is kept, so the same command goes on after an interruption. `run --only TASK`
trains for one task; `table` keeps the rows of tasks that DIR has no runs of.
"""

import argparse
import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from elmnet import models
from elmnet.sweep import execute
from elmnet.sweep.recipe import Recipe, Trial
from elmnet.sweep.store import Seen, Sweep
from elmnet.tasks import open_task
from elmnet.train.identity import name_of

RECIPES = {
    "enwik8-baselines-small": "text",
    "shd-baselines-small": "spikes",
    "shd-adding-baselines-small": "spikes",
}
SCORE = {"enwik8": "bpc", "shd": "accuracy", "shd-adding": "accuracy"}
SIGN = {"bpc": 1, "accuracy": -1}
"""Of the score, so that less is better."""
SEEDS = (1,)
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
"""Between these the page is rewritten."""


def note(trial: Trial, outcome: str) -> None:
    """A line for every run that ends."""
    config = trial.config
    words = f"{config.task} {models.kind_of(config.model)} {config.training.learning_rate:g} seed {config.seed}"
    print(f"{words}: {outcome}", flush=True)


def chosen(seen: list[Seen]) -> dict[str, Seen]:
    """The run of seed 0 with the best validation score, of every model that has finished all its rates."""
    first = [one for one in seen if one.trial.config.seed == 0]
    best: dict[str, Seen] = {}
    for kind in models.KINDS:
        mine = [one for one in first if models.kind_of(one.trial.network) == kind]
        if mine and all(one.result for one in mine):
            best[kind] = min(mine, key=measure)
    return best


def measure(one: Seen) -> float:
    """Validation score, less is better; a run that failed comes last."""
    score = SCORE[one.trial.config.task]
    return float("inf") if one.result is None else SIGN[score] * one.result["valid"][score]


def run(out: Path, sources: dict[str, str], recipes: Iterable[str]) -> None:
    """One task after the other: all learning rates, then the second seeds."""
    for name in recipes:
        part = RECIPES[name]
        recipe = Recipe.read(Path(name), sources[part])
        trials = recipe.expand()
        sweep, start = Sweep.create(out / name, recipe, trials), trials[0].config
        if not execute.in_process(execute.jobs(sweep, threads=1), note):
            return
        contents = open_task(start.task, start.options, start.data).facts()["sha256"]
        again = []
        for best in chosen(list(sweep.look())).values():
            configs = [best.trial.config.replace(seed=seed) for seed in SEEDS]
            again += [Trial(name_of(config, contents), config) for config in configs]
        sweep = Sweep.create(sweep.path, recipe, again)
        if not execute.in_process(execute.jobs(sweep, threads=1), note):
            return


def rows(sweep: Sweep) -> list[dict[str, object]]:
    """Every finished run, and whether its rate is the chosen one."""
    seen = list(sweep.look())
    rates = {kind: best.trial.config.training.learning_rate for kind, best in chosen(seen).items()}
    found = []
    for one in seen:
        config, result = one.trial.config, one.result
        if result is None:
            continue
        kind, score = models.kind_of(config.model), SCORE[config.task]
        counts = models.counts(config.model)
        found.append(
            {
                "task": config.task,
                "data": result["data"],
                "model": kind,
                "units": counts.units,
                "parameters": counts.parameters,
                "flops_per_step": counts.flops,
                "learning_rate": config.training.learning_rate,
                "chosen": rates.get(kind) == config.training.learning_rate,
                "seed": config.seed,
                "steps": result["steps"],
                "score": score,
                "valid": round(result["valid"][score], 5),
                "test": round(result["test"][score], 5),
                "test_nats": round(result["test"]["nats"], 5) if "nats" in result["test"] else "",
                "steps_per_second": result["steps_per_second"],
                "wall_seconds": result["wall_seconds"],
                "trial": one.trial.name,
            }
        )
    return found


def table(out: Path, target: Path) -> None:
    """Write all finished runs as CSV, and the tables of chosen rates into the page beside it."""
    sweeps = [Sweep.open(out / name) for name in RECIPES if (out / name / "sweep.json").exists()]
    new = [row for sweep in sweeps for row in rows(sweep)]
    earlier = _read(target) if target.exists() else []
    found = [row for row in earlier if row["task"] not in {row["task"] for row in new}] + new
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, found[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    page = target.with_suffix(".md")
    before, _, rest = page.read_text().partition(BEGIN)
    lines = [line for task in SCORE for line in _of_task(task, [row for row in found if row["task"] == task])]
    page.write_text("\n".join([before + BEGIN, *lines, END + rest.partition(END)[2]]))


def _read(target: Path) -> list[dict[str, object]]:
    """Rows of an earlier table."""
    with target.open(encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        row["chosen"] = row["chosen"] == "True"
        row |= {name: float(row[name]) for name in ("learning_rate", "valid", "test", "steps_per_second")}
        row["parameters"] = int(row["parameters"])
    return rows


def _of_task(task: str, found: list[dict[str, object]]) -> list[str]:
    """A task's table: chosen rates, best model first; models without all three rates only say how far they are."""
    score, wanted = SCORE[task], 3 + len(SEEDS)
    mine = {kind: [row for row in found if row["model"] == kind] for kind in models.KINDS}
    done = sum(map(len, mine.values()))
    lines = [f"\n### {task}: {done} of {wanted * len(mine)} runs finished\n"]
    ranked, unfinished = [], []
    for kind, runs in mine.items():
        picked = [row for row in runs if row["chosen"]]
        if not picked:
            unfinished.append(f"{kind} {len(runs)}")
            continue
        tests, first = [float(str(row["test"])) for row in picked], picked[0]
        speed = sum(float(str(row["steps_per_second"])) for row in picked) / len(picked)
        cells = [kind, f"{first['units']}", f"{first['parameters']:,}", f"{first['learning_rate']:g}"]
        cells += [", ".join(f"{row['valid']:.4f}" for row in picked), ", ".join(f"{test:.4f}" for test in tests)]
        cells += [f"{sum(tests) / len(tests):.4f}", f"{max(tests) - min(tests):.4f}" if len(tests) > 1 else ""]
        ranked.append((SIGN[score] * sum(tests) / len(tests), f"| {' | '.join([*cells, f'{speed:.1f}'])} |"))
    if ranked:
        names = ("model", "units", "P", "rate", f"validation {score}", f"test {score}", "mean", "spread", "steps/s")
        lines += [f"| {' | '.join(names)} |", "|---" * len(names) + "|", *(line for _, line in sorted(ranked))]
    if unfinished:
        lines.append(f"\nRates finished of the others: {', '.join(unfinished)}.")
    return lines


def main() -> None:
    """The two commands above."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--text", default="python-stdlib")
    parser.add_argument("--spikes", default="synthetic")
    parser.add_argument("--only", choices=SCORE, help="task to train for; default: all, one after the other")
    parser.add_argument("--target", type=Path, default=Path("docs/results/baselines.csv"))
    arguments = parser.parse_args()
    if arguments.what == "run":
        recipes = [name for name in RECIPES if arguments.only in (None, name.removesuffix("-baselines-small"))]
        run(arguments.out, {"text": arguments.text, "spikes": arguments.spikes}, recipes)
    else:
        table(arguments.out, arguments.target)


if __name__ == "__main__":
    main()
