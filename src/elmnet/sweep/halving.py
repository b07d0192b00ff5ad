"""Successive halving, on request: trials whose validation lags behind are stopped early (Optuna's asynchronous rule).

It saves time when only the best matters, and biases every fit of what is left: stopped trials are marked, and never
enter one.
"""

import json
from pathlib import Path
from typing import Any

from elmnet import tables
from elmnet.errors import ConfigError
from elmnet.files import write_atomic
from elmnet.train.progress import Reporter

STOPPED = "stopped.json"
STUDY = "halving.log"


class StoppedEarly(Exception):
    """Training ended because others are ahead."""


class Halving(Reporter):
    """Reports a trial's validations to the study all workers share, and stops it when the study says so.

    Args:
        directory: of the run; the study lies two levels up, in the sweep's.
        every: training steps between two validations; the first may stop a trial already.
        larger_is_better: of the validation score.
    """

    def __init__(self, directory: Path, *, every: int, larger_is_better: bool) -> None:
        super().__init__(quiet=True)
        self._directory = directory
        self._study = _study(directory.parent.parent / STUDY, every, "maximize" if larger_is_better else "minimize")
        self._trial = self._join()

    def _join(self) -> Any:
        """The study's trial for this run; the same one when the run is resumed."""
        import optuna

        file = self._directory.with_name(f".{self._directory.name}.halving")
        if file.exists():
            return optuna.trial.Trial(self._study, int(file.read_text(encoding="utf-8")))
        trial = self._study.ask()
        write_atomic(file, str(trial._trial_id))
        return trial

    def validated(self, step: int, score: float) -> None:
        """After a validation."""
        known = self._study.get_trials(deepcopy=False)[self._trial.number].intermediate_values
        if step not in known:
            self._trial.report(score, step)
        if self._trial.should_prune():
            raise StoppedEarly(f"stopped at step {step}: validation {tables.score(score)} lags behind the others'")


def stop(directory: Path, reason: StoppedEarly) -> None:
    """Mark a run that was stopped early."""
    write_atomic(directory / STOPPED, json.dumps({"reason": str(reason)}) + "\n")


def reason_of(directory: Path) -> str | None:
    """Why a run was stopped early; None: it was not."""
    try:
        return str(json.loads((directory / STOPPED).read_text(encoding="utf-8"))["reason"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"unreadable {STOPPED}: {error}"


def require() -> None:
    """Raise ConfigError where the extra is missing."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError("--early-stopping needs Optuna: pip install 'elmnet[halving]'") from None


def _study(file: Path, every: int, direction: str) -> Any:
    require()
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file.parent.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        study_name="sweep",
        storage=JournalStorage(JournalFileBackend(str(file))),
        direction=direction,
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=every, reduction_factor=3),
        load_if_exists=True,
    )
