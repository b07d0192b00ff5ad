"""What runs have written: metrics, and finished runs as rows of a table, for fits."""

import json
from pathlib import Path
from typing import Any

from elmnet.config import NetworkConfig
from elmnet.errors import ConfigError, RunError, TheoryError
from elmnet.theory.model import NATS
from elmnet.theory.runs import Runs, table
from elmnet.train.config import RunConfig
from elmnet.train.identity import configuration_of, name_of, setting_of
from elmnet.train.run import RunDirectory

MEASURES = {"bpc": ("bpc", 1.0), "loss": ("nats", NATS), "error": ("accuracy", 1.0)}
"""Score of a fit: what a result calls it, and the unit u."""


def read_runs(directory: Path, score: str | None = None) -> tuple[Runs, dict[str, str]]:
    """Every finished run below a directory, and why others were left out.

    Args:
        directory: searched for run directories.
        score: `valid_bpc`, `test_bpc` (text), `valid_loss`, `test_loss` (nats), `valid_error`, `test_error` (classes);
            None: the validation's own.

    Raises:
        TheoryError: no finished run; runs of several tasks or data; a score they do not have.
    """
    if not directory.is_dir():
        raise TheoryError(f"{directory} is not a directory of runs (or published:TASK)")
    skipped: dict[str, str] = {}
    seen: dict[str, str] = {}
    rows = []
    for file in sorted(directory.rglob("config.yaml")):
        name = str(file.parent.relative_to(directory)) if file.parent != directory else directory.name
        try:
            run = RunDirectory.open(file.parent)
            config, facts = run.read_config()
            result = run.read_result()
        except (RunError, ConfigError) as error:
            skipped[name] = str(error)
            continue
        if result is None:
            skipped[name] = "not finished"
        elif not isinstance(config.model, NetworkConfig):
            skipped[name] = f"a {config.model.kind}; the model is of ELM networks"
        elif len(config.model.layers) != 1:
            skipped[name] = f"{len(config.model.layers)} hidden layers; the model is of one"
        elif (twin := seen.setdefault(name_of(config, facts.get("sha256")), name)) != name:
            skipped[name] = f"the same run as {twin}"
        else:
            rows.append((name, config.model, config, result))
    if not rows:
        reasons = "".join(f"; {name}: {why}" for name, why in list(skipped.items())[:3])
        raise TheoryError(f"{directory} holds no finished run{reasons}")
    kinds = {(config.task, result["data"]) for _, _, config, result in rows}
    if len(kinds) > 1:
        raise TheoryError(
            f"{directory} mixes {', '.join(f'{task} on {data}' for task, data in sorted(kinds))}; fit one"
        )
    score = score or ("valid_bpc" if "bpc" in rows[0][3]["valid"] else "valid_loss")
    split, _, measure = score.partition("_")
    name, unit = MEASURES.get(measure, ("", 1.0))
    first = rows[0][3]
    floors = list(first["baselines"].values())  # what a score is measured from
    if split not in ("valid", "test") or not all(name in baseline[split] for baseline in floors):
        known = [
            f"{part}_{kind}"
            for part in ("valid", "test")
            for kind, (name, _) in MEASURES.items()
            if all(name in baseline[part] for baseline in floors)
        ]
        has = f"they have {', '.join(known)}" if known else f"the model is of {', '.join(MEASURES)}, which none has"
        raise TheoryError(f"these runs have no score {score!r}; {has}")

    def value(scores: dict[str, float]) -> float:
        return 1 - scores[name] if measure == "error" else scores[name]

    ignorance = max(value(baseline[split]) for baseline in floors)
    steps = sorted({config.training.steps for _, _, config, _ in rows})
    task, data = next(iter(kinds))
    trained = f"{steps[0]:,} steps" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,} steps"
    protocols = len({setting_of(config) for _, _, config, _ in rows})
    if protocols > 1:
        trained += f", {protocols} training settings"
    caution = None
    if protocols > 1 or len(steps) > 1:
        caution = f"trained differently ({trained}): the law is of one training, so fit runs of one alone"
    runs = table(
        [model for _, model, _, _ in rows],
        [value(result[split]) for _, _, _, result in rows],
        names=[name for name, _, _, _ in rows],
        configurations=[configuration_of(config) for _, _, config, _ in rows],
        task=task,
        caution=caution,
        source=f"{directory} ({len(rows)} runs of {task} on {data}, {trained})",
        score=score,
        H0=ignorance,
        unit=unit,
    )
    return runs, skipped


def config_of(directory: Path, name: str) -> RunConfig:
    """The configuration of a run that `read_runs` of the directory named.

    Raises:
        RunError, ConfigError: it cannot be read.
    """
    within = directory / name
    config, _ = RunDirectory.open(within if within.is_dir() else directory).read_config()
    return config


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl; a torn last one is left out."""
    lines = []
    for line in file.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            lines.append(record)
    return lines
