"""ELM networks as scikit-learn estimators: `ELMClassifier` and `ELMRegressor` for sequences.

    from elmnet.estimators import ELMClassifier

    model = ELMClassifier(random_state=0).fit(X, y)  # X (n, T, channels), or a list of (T_i, channels), or (n, T)
    model.predict_proba(X_new)

They train with the trainer of `elmnet train sequence`: same network, loop, schedule, choice of the best step by a
validation part. Needs the extra `estimators`.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import assert_all_finite, check_array
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, check_random_state, column_or_1d, validate_data
except ImportError as missing:
    raise ImportError("elmnet.estimators needs scikit-learn: pip install 'elmnet[estimators]'") from missing

import torch

from elmnet.baselines.config import BaselineConfig
from elmnet.data.sequences import PARTS, Sequences, checked
from elmnet.errors import DataError
from elmnet.tasks.sequence import SequenceTask
from elmnet.train import loop
from elmnet.train.config import RunConfig, compose
from elmnet.train.predict import Predictions, predict
from elmnet.train.progress import Reporter
from elmnet.train.trained import Run

Array = NDArray[Any]


_ARGS = """
    Args:
        units: N, hidden units; of another model its width.
        memory: d_m, memory units of each (ELM neurons alone).
        model: `elm`, or another of `elmnet.models.KINDS`.
        budget: P, trainable parameters: as many units as fit, instead of `units`; None: `units` as they are.
        steps: training steps, after warm-up on a cosine to 0.
        batch_size: sequences of a step.
        learning_rate: its peak.
        validation_fraction: part of the sequences that chooses the best step; below 8 sequences all of them do.
        standardise: channels (and values to tell) to mean 0 and standard deviation 1 of the training part.
        settings: any others of the run by their paths, for example {"training.patience": 3}; they win.
        random_state: draws weights, wiring, batches and the validation part.
"""
_ATTRIBUTES = """
    Attributes:
        network_: the trained network, an `ELMNetwork` or `Baseline`.
        config_: the run's whole configuration.
        history_: what training has logged, a dictionary for each step and validation that it logs.
        standard_: how the data were standardised, for exports.
        n_features_in_: channels of a sequence; of a 2-D X, whose columns are the steps of one channel, the columns.
"""


class _ELM(BaseEstimator):  # type: ignore[misc]
    _classes: bool
    _columns: list[Any] | None
    _weights: Array | None = None

    def __init__(
        self,
        units: int = 32,
        memory: int = 4,
        *,
        model: str = "elm",
        budget: int | None = None,
        steps: int = 300,
        batch_size: int = 32,
        learning_rate: float = 5e-3,
        validation_fraction: float = 0.15,
        standardise: bool = True,
        settings: Mapping[str, Any] | None = None,
        random_state: Any = None,
    ) -> None:
        self.units = units
        self.memory = memory
        self.model = model
        self.budget = budget
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.standardise = standardise
        self.settings = settings
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Train on X, (n, T, channels), a list of (T_i, channels) or (n, T), and y, one target a sequence.

        Raises:
            ValueError: X or y does not have the shape or values it needs.
            ConfigError: a parameter makes no sense.
        """
        self.__dict__.pop("network_", None)  # what is told from here on is not of the old one
        if not isinstance(self.standardise, bool | np.bool_):
            raise ValueError(f"standardise must be True or False, got {self.standardise!r}")
        if y is None:
            raise ValueError("this estimator requires y to be passed, but the target y is None")
        _require_one_each(y, classes=self._classes)
        x, lengths = self._sequences(X, fitting=True)
        targets = self._targets(y)
        if len(targets) != len(x):
            raise ValueError(f"X holds {len(x)} sequences, y {len(targets)} targets: inconsistent numbers of samples")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        data = _checked(x=x, y=targets, lengths=lengths)
        parts = self._parts(targets, seed)
        self._train(data, parts, seed)
        return self

    def _train(self, data: Sequences, parts: dict[str, NDArray[np.int64]], seed: int) -> None:
        config = self._configuration(seed)
        task = SequenceTask(config.options, data, seed=seed, parts=parts, weights=self._weights)  # type: ignore[arg-type]
        if self.model != "elm":
            config = config.with_model(self.model)
        if isinstance(config.model, BaselineConfig):
            config = config.replace(model=config.model.replace(width=self.units))
        self.config_ = config.fitted(task, self.budget)
        # whatever the caller has switched off for torch
        with tempfile.TemporaryDirectory() as place, torch.inference_mode(False), torch.enable_grad():
            try:
                loop.start(self.config_, Path(place) / "run", task, reporter=Reporter(quiet=True))
            except loop.Interrupted as stop:  # what it saved goes with the temporary directory
                raise KeyboardInterrupt from stop
            run = Run(Path(place) / "run")
            self.network_, self.history_ = run.directory.best_network(), run.metrics
        self._facts = task.facts()

    def _configuration(self, seed: int) -> RunConfig:
        every = max(1, self.steps // 5)
        settings = {
            "model.layers.0.units": self.units,
            "model.layers.0.neuron.memory": self.memory,
            "options.batch": self.batch_size,
            "options.standardise": self.standardise,
            "training.steps": self.steps,
            "training.warmup": self.steps // 10,
            "training.learning_rate": self.learning_rate,
            "training.eval_every": every,
            "training.checkpoint_minutes": 1e9,
        }
        settings |= self.settings or {}
        return compose("sequence", preset="tiny", settings=settings, seed=seed, threads=torch.get_num_threads())

    def _parts(self, targets: Array, seed: int) -> dict[str, NDArray[np.int64]]:
        """The sequences of every part. Every class stays in training; no test part is taken away: the trainer's last
        report repeats the validation."""
        rng = np.random.default_rng(seed)
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction must lie in (0, 1), got {self.validation_fraction}")
        wanted = round(self.validation_fraction * len(targets))
        order = rng.permutation(len(targets))
        if self._classes:
            _, first = np.unique(targets[order], return_index=True)
            order = np.delete(order, first)
        if len(targets) < 8 or not len(order):
            return dict.fromkeys(PARTS, np.arange(len(targets)))
        valid = np.sort(order[: max(1, min(wanted, len(targets) - 1))])
        return {"train": np.setdiff1d(np.arange(len(targets)), valid), "valid": valid, "test": valid}

    def _targets(self, y: Any) -> Array:
        raise NotImplementedError

    def _sequences(self, X: Any, *, fitting: bool) -> tuple[Array, Array | None]:
        """X as (n, T, channels) and lengths; remembers, or checks, how many features there are and their names."""
        validate_data(self, X, "no_validation", reset=fitting, skip_check_array=True, ensure_2d=False)
        dimensions = {np.ndim(one) for one in X} if isinstance(X, list | tuple) else set()
        if dimensions == {1} and len({len(one) for one in X}) > 1:
            raise ValueError(
                "sequences of different lengths must each be (T, channels); reshape(-1, 1) makes it one channel"
            )
        flat, columns = False, None
        if dimensions == {2}:
            columns = _columns(X)
            if not fitting and columns is not None and self._columns is not None:
                columns = self._columns  # channels are known by their names
            x, lengths, features = _padded(X, columns)
        else:
            table = check_array(
                X, dtype=np.float64, allow_nd=True, ensure_min_samples=2 if fitting else 1, estimator=self
            )
            if table.ndim > 3:
                raise ValueError(f"X must have at most 3 dimensions (n, T, channels), got {table.ndim}")
            x, lengths, features = table.reshape(*table.shape[:2], -1), None, table.shape[-1]
            flat = table.ndim == 2
        if fitting:
            self.n_features_in_, self._flat_x, self._columns = features, flat, columns
        elif flat != self._flat_x:
            shapes = ("(n, T, channels)", "(n, T)")
            raise ValueError(f"X is {shapes[flat]}, but {type(self).__name__} was fitted to {shapes[not flat]}")
        elif features != self.n_features_in_:
            words = f"X has {features} features, but {type(self).__name__} is expecting {self.n_features_in_} features"
            raise ValueError(f"{words} as input")
        return x, lengths

    def _told(self, X: Any) -> Predictions:
        check_is_fitted(self, "network_")
        x, lengths = self._sequences(X, fitting=False)
        options = self.config_.options
        data = _checked(x=x, lengths=lengths)
        return predict(self.network_, SequenceTask(options, data, facts=self._facts))  # type: ignore[arg-type]

    @property
    def standard_(self) -> Any:
        """For `elmnet.interop.graphs.export_onnx` and `export_torch`: what makes the graph of `network_` take and give
        the data's own units; None where nothing was standardised."""
        from elmnet.tasks.standard import Standard

        check_is_fitted(self, "network_")
        return Standard.of(self._facts)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.target_tags.required = True
        return tags


class ELMClassifier(ClassifierMixin, _ELM):  # type: ignore[misc]
    __doc__ = f"""Classes of sequences, trained as by `elmnet train sequence`.
{_ARGS}        class_weight: of classes in training, by class, or "balanced": inversely to how often they occur.
{_ATTRIBUTES}        classes_: the classes, sorted.
    """
    _classes = True

    def __init__(  # written out, for scikit-learn reads a class's parameters from its own signature
        self,
        units: int = 32,
        memory: int = 4,
        *,
        model: str = "elm",
        budget: int | None = None,
        steps: int = 300,
        batch_size: int = 32,
        learning_rate: float = 5e-3,
        validation_fraction: float = 0.15,
        standardise: bool = True,
        settings: Mapping[str, Any] | None = None,
        class_weight: Any = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            units,
            memory,
            model=model,
            budget=budget,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            validation_fraction=validation_fraction,
            standardise=standardise,
            settings=settings,
            random_state=random_state,
        )
        self.class_weight = class_weight

    def _targets(self, y: Any) -> Array:
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y", estimator_name=type(self).__name__)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class, {self.classes_[0]!r}; a classifier needs at least 2")
        weighed = self.class_weight is not None
        self._weights = compute_class_weight(self.class_weight, classes=self.classes_, y=y) if weighed else None
        return np.asarray(numbers, dtype=np.int64)

    def predict_proba(self, X: Any) -> Array:
        """Probability of every class, (n, classes)."""
        return self._told(X).values

    def predict(self, X: Any) -> Array:
        """The likeliest class of every sequence, (n,)."""
        told = self._told(X)
        return np.asarray(self.classes_[told.values.argmax(1)])


class ELMRegressor(RegressorMixin, _ELM):  # type: ignore[misc]
    __doc__ = f"""Values of sequences, trained as by `elmnet train sequence`.
{_ARGS}{_ATTRIBUTES}    """
    _classes = False

    def _targets(self, y: Any) -> Array:
        y = check_array(y, dtype=np.float64, ensure_2d=False, input_name="y", estimator=self)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        self._flat = y.ndim == 1
        return np.asarray(y)

    def predict(self, X: Any) -> Array:
        """The values of every sequence, (n,) or (n, k) as y was."""
        values = self._told(X).values
        return values[:, 0] if self._flat else values


def _require_one_each(y: Any, *, classes: bool) -> None:
    """Refuse targets of every step; several values of a sequence are none."""
    try:
        array = np.asarray(y)
        nested = array.ndim == 1 and array.dtype.kind == "O" and any(np.ndim(one) for one in array)
    except ValueError:  # of different lengths
        nested = True
    if nested or array.ndim > 2 or (classes and array.ndim == 2 and array.shape[1] > 1):
        raise ValueError(
            "y must hold one target a sequence (or, to ELMRegressor, several values: (n, k)); with a target at every "
            "step, use `elmnet train sequence` or elmnet.Run (docs/own-data.md)"
        )


def _columns(X: Sequence[Any]) -> list[Any] | None:
    """The channels' names in the order of the first of tables; None: these are not all tables."""
    return list(X[0].columns) if all(hasattr(one, "columns") for one in X) else None


def _padded(X: Sequence[Any], columns: list[Any] | None) -> tuple[Array, Array, int]:
    """Sequences of different lengths side by side; of tables with these columns, in this order."""
    if columns is not None:
        for number, one in enumerate(X):
            if sorted(map(str, one.columns)) != sorted(map(str, columns)):
                raise ValueError(f"sequence {number} has columns {list(one.columns)}, expected {columns}")
        X = [one[columns] for one in X]
    pieces = [np.asarray(one, dtype=np.float64) for one in X]
    widths, lengths = {one.shape[1] for one in pieces}, np.array([len(one) for one in pieces])
    if len(widths) > 1:
        raise ValueError(f"all sequences need the same number of channels, got {sorted(widths)}")
    if not lengths.all():
        raise ValueError(f"sequence {int(np.argmin(lengths))} has no step")
    x = np.zeros((len(pieces), int(lengths.max()), widths.pop()))
    for row, piece in zip(x, pieces, strict=True):
        row[: len(piece)] = piece
    return x, lengths, x.shape[2]


def _checked(**arrays: Any) -> Sequences:
    """Arrays as sequences; what is wrong with them as the ValueError that scikit-learn's users expect."""
    try:
        return checked(**arrays, per="sequence", name="X")
    except DataError as error:
        raise ValueError(str(error)) from error
