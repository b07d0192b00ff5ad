"""Finished runs as rows of a table, for fits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from elmnet.config import NetworkConfig
from elmnet.errors import ConfigError, RunError, TheoryError
from elmnet.theory.kinds import KINDS, kind_of, score_of, scores_of
from elmnet.theory.runs import Runs, table
from elmnet.train.config import RunConfig
from elmnet.train.identity import configuration_of, contents_of, name_of, setting_of
from elmnet.train.run import RunDirectory

Scores = Mapping[str, Mapping[str, float]]
"""Of the splits `valid` and `test`, by name."""


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    name: str
    config: RunConfig
    data: str
    """In words."""
    scores: Scores
    baselines: Sequence[Scores]
    """What knows nothing."""
    contents: str = ""
    """Hash of the data; empty where it is not known."""

    @property
    def network(self) -> NetworkConfig:
        """What was trained, where the information model describes it (`described`)."""
        assert isinstance(self.config.model, NetworkConfig)
        return self.config.model


def described(found: Sequence[Finished], skipped: Mapping[str, str]) -> tuple[list[Finished], dict[str, str]]:
    """The runs whose network the information model describes, and why all others were left out.

    Args:
        found: finished runs.
        skipped: why others were left out before.
    """
    reasons = {one.name: why for one in found if (why := _unfit(one.config)) is not None}
    return [one for one in found if one.name not in reasons], {**skipped, **reasons}


def _unfit(config: RunConfig) -> str | None:
    if not isinstance(config.model, NetworkConfig):
        return f"a {config.model.kind}; the model is of ELM networks"
    layers = len(config.model.layers)
    return None if layers == 1 else f"{layers} hidden layers; the model is of one"


def finished(*directories: Path) -> tuple[list[Finished], dict[str, str]]:
    """Every finished run below directories, of whatever network, once, and why others were left out.

    Raises:
        TheoryError: there is no such directory.
    """
    found: list[Finished] = []
    skipped: dict[str, str] = {}
    seen: dict[str, str] = {}
    for name, file in _run_files(directories).items():
        try:
            run = RunDirectory.open(file.parent)
            config, facts = run.read_config()
            result = run.read_result()
        except (RunError, ConfigError) as error:
            skipped[name] = str(error)
            continue
        if result is None:
            skipped[name] = "not finished"
        elif (twin := seen.setdefault(name_of(config, facts), name)) != name:
            skipped[name] = f"the same run as {twin}"
        else:
            floors = list(result["baselines"].values())
            found.append(Finished(name, config, result["data"], result, floors, str(contents_of(facts))))
    return found, skipped


def _run_files(directories: Sequence[Path]) -> dict[str, Path]:
    """The settings of every run below directories, by name: its place in the one, or with its directory."""
    files = {}
    for directory in directories:
        if not directory.is_dir():
            raise TheoryError(
                f"{directory} is neither a directory of runs, nor a .csv or .parquet table, nor published:TASK"
            )
        for file in sorted(directory.rglob("config.yaml")):
            inside = file.parent.relative_to(directory) if file.parent != directory else Path(directory.name)
            files[str(inside if len(directories) == 1 else directory / inside)] = file
    return files


def as_runs(
    found: Sequence[Finished], where: str | Path, score: str | None = None, skipped: Mapping[str, str] | None = None
) -> Runs:
    """Finished runs as a fit takes them.

    Args:
        found: of one task and its data, whose networks the information model describes (`described`).
        where: they were found.
        score: `valid_bpc`, `test_bpc` (text), `valid_loss`, `test_loss` (nats), `valid_error`, `test_error` (classes);
            None: the validation's own.
        skipped: why others were left out, for the error's words.

    Raises:
        TheoryError: no finished run; runs of several tasks or data; a score they do not have.
    """
    if not found:
        raise none_finished(where, skipped or {})
    kinds = sorted({(one.config.task, one.data) for one in found})
    if len(kinds) > 1:
        raise TheoryError(f"{where} mixes {', '.join(f'{task} on {data}' for task, data in kinds)}; fit one")
    floors = [_flat(baseline) for baseline in found[0].baselines]  # what a score is measured from
    known = [score for score in scores_of(floors[0] if floors else {}) if all(score in scores_of(f) for f in floors)]
    score = score or next(iter(known), "valid_loss")
    if score not in known:
        has = f"they have {', '.join(known)}" if known else f"the model is of {', '.join(KINDS)}, which none has"
        raise TheoryError(f"these runs have no score {score!r}; {has}")
    (task, data), kind = kinds[0], kind_of(score)
    several = len({one.contents for one in found}) > 1
    contents = [f" {one.contents}" if several else "" for one in found]
    runs = table(
        [one.network for one in found],
        [score_of(_flat(one.scores), score) for one in found],
        names=[one.name for one in found],
        configurations=[configuration_of(one.config) + of for one, of in zip(found, contents, strict=True)],
        task=task,
        steps=[one.config.training.steps for one in found],
        settings=[setting_of(one.config) + of for one, of in zip(found, contents, strict=True)],
        source=str(where),
        score=score,
        H0=max(score_of(floor, score) for floor in floors),
        unit=kind.unit,
        floor=kind.floor,
    )
    return replace(runs, source=f"{where} ({len(runs)} runs of {task} on {data}, {runs.trained})")


def none_finished(where: str | Path, skipped: Mapping[str, str]) -> TheoryError:
    """The error for a place without a run to fit, with why some were left out."""
    reasons = "".join(f"; {name}: {why}" for name, why in list(skipped.items())[:3])
    return TheoryError(f"{where} holds no finished run{reasons}")


def read_runs(directory: str | Path, score: str | None = None) -> tuple[Runs, dict[str, str]]:
    """Every finished run below a directory as a fit takes it (`as_runs`), and why others were left out.

    Raises:
        TheoryError: no finished run; runs of several tasks or data; a score they do not have.
    """
    found, skipped = described(*finished(Path(directory)))
    return as_runs(found, Path(directory), score, skipped), skipped


def _flat(scores: Scores) -> dict[str, float]:
    """Scores as a row of a table has them: `valid_bpc`, ..."""
    return {f"{split}_{name}": value for split in ("valid", "test") for name, value in scores[split].items()}
