"""The estimators: scikit-learn's own checks as far as they apply to sequences, and sequences."""

import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="needs scikit-learn (extra `estimators`)")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator

from elmnet.errors import ConfigError
from elmnet.estimators import ELMClassifier, ELMRegressor

SMALL = {"units": 10, "memory": 3, "random_state": 0}
QUICK = (
    "check_no_attributes_set_in_init",
    "check_estimator_cloneable",
    "check_estimator_get_tags_default_keys",
    "check_estimators_unfitted",
    "check_estimators_nan_inf",
    "check_supervised_y_no_nan",
    "check_get_params_invariance",
    "check_set_params",
    "check_dict_unchanged",
    "check_n_features_in_after_fitting",
    "check_estimators_pickle",
)
"""Every check passes, and none is left out; those that fit most often run with `-m slow`."""


def checks():
    for estimator in (ELMClassifier(steps=60, **SMALL), ELMRegressor(steps=150, **SMALL)):
        for one, check in estimator_checks_generator(estimator):
            name = getattr(check, "func", check).__name__
            if name == "check_regressors_train":  # asks for R² > 0.5 on ten unrelated columns, read as ten steps
                one = clone(one).set_params(units=32, memory=4, steps=400)
            marks = () if name in QUICK and isinstance(one, ELMClassifier) else pytest.mark.slow
            yield pytest.param(one, check, id=f"{type(one).__name__}-{name}", marks=marks)


@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_scikit_learn_s_checks(estimator, check):
    check(estimator)


def waves(count=80, seed=0):
    """Synthetic: noisy sines of 6 to 12 steps and two channels that rise or fall first, with an amplitude."""
    rng = np.random.default_rng(seed)
    sign, size = rng.choice([-1, 1], size=count), rng.uniform(0.5, 2, size=count)
    lengths = rng.integers(6, 13, size=count)
    shape = np.sin(np.arange(12) / 3)[:, None] * [[1.0, -30.0]]
    x = [v * shape[:n] + 0.1 * rng.standard_normal((n, 2)) for v, n in zip(sign * size, lengths, strict=True)]
    return x, np.where(sign > 0, "up", "down"), sign * size


def test_sequences_of_different_lengths_are_classified():
    x, y, _ = waves()
    model = ELMClassifier(units=16, steps=100, random_state=0).fit(x, y)
    new, truth, _ = waves(seed=1)
    assert model.score(new, truth) > 0.95
    probability = model.predict_proba(new)
    assert probability.shape == (80, 2) and np.allclose(probability.sum(1), 1)
    assert model.classes_.tolist() == ["down", "up"] and model.n_features_in_ == 2
    assert np.array_equal(model.predict(new), model.classes_[probability.argmax(1)])
    one_by_one = [model.predict_proba([sequence])[0] for sequence in new[:5]]
    assert np.allclose(one_by_one, probability[:5], atol=1e-6)


def test_a_failed_refit_tells_nothing_of_the_old_network():
    X, y = np.random.default_rng(0).standard_normal((20, 5, 2)), np.array(["up", "down"] * 10)
    model = ELMClassifier(units=4, memory=2, steps=2, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, np.array(["cat", "dog"]))
    with pytest.raises(NotFittedError):
        model.predict(X)


@pytest.mark.parametrize("kind", [ELMClassifier, ELMRegressor])
def test_targets_of_every_step_are_refused_in_words(kind):
    x, _, _ = waves(20)
    ragged = [np.zeros(len(one)) for one in x]
    objects = np.empty(20, dtype=object)
    objects[:] = ragged
    flat = np.zeros((20, 5), dtype=int)
    for y in (ragged, objects, np.zeros((20, 5, 1)), *([flat] if kind is ELMClassifier else [])):
        with pytest.raises(ValueError, match=r"y must hold one target a sequence .* use `elmnet train sequence`"):
            kind(steps=1, **SMALL).fit(x, y)


def test_dimensions_are_those_of_the_fit():
    X, y = np.random.default_rng(0).standard_normal((20, 5, 1)), np.array([0, 1] * 10)
    model = ELMClassifier(units=4, memory=2, steps=2, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=r"X is \(n, T\), but ELMClassifier was fitted to \(n, T, channels\)"):
        model.predict(X[0])


def test_units_are_the_width_of_another_model_and_strings_are_no_truth():
    X, y = np.random.default_rng(0).standard_normal((20, 5, 2)), np.array([0, 1] * 10)
    model = ELMClassifier(units=6, model="gru", steps=2, random_state=0).fit(X, y)
    assert model.config_.model.width == 6
    with pytest.raises(ValueError, match="standardise must be True or False, got 'false'"):
        ELMClassifier(standardise="false").fit(X, y)


def test_columns_of_a_table_keep_their_order():
    pandas = pytest.importorskip("pandas", reason="needs pandas, which elmnet does not")
    X, y = np.random.default_rng(0).standard_normal((12, 3)), np.arange(12) % 2
    table = pandas.DataFrame(X, columns=["t0", "t1", "t2"])
    model = ELMClassifier(steps=2, **SMALL).fit(table, y)
    assert model.feature_names_in_.tolist() == ["t0", "t1", "t2"]
    assert model.predict(table).shape == (12,)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(table[["t1", "t0", "t2"]])


def test_channels_of_tables_are_known_by_their_names():
    pandas = pytest.importorskip("pandas", reason="needs pandas, which elmnet does not")
    rng = np.random.default_rng(0)
    X = [pandas.DataFrame(rng.standard_normal((4 + i % 3, 2)), columns=["a", "b"]) for i in range(12)]
    model = ELMClassifier(steps=2, **SMALL).fit(X, np.arange(12) % 2)
    told = model.predict_proba(X)
    assert np.array_equal(model.predict_proba([table[["b", "a"]] for table in X]), told)
    assert np.array_equal(model.predict_proba([table.to_numpy() for table in X]), told)
    with pytest.raises(ValueError, match=r"sequence 1 has columns \['a', 'c'\], expected \['a', 'b'\]"):
        model.predict([X[0], X[1].rename(columns={"b": "c"})])


def test_a_fitted_network_is_exported_in_the_data_s_units():
    from elmnet.interop.graphs import Unrolled

    rng = np.random.default_rng(0)
    x, y = 100 + rng.standard_normal((20, 6, 2)), 1000 * rng.standard_normal(20)
    model = ELMRegressor(steps=5, **SMALL).fit(x, y)
    graph = Unrolled(model.network_, 6, model.standard_)
    with torch.no_grad():
        out = graph(torch.from_numpy(x).float(), *graph.example(len(x))[1:])[0][:, -1, 0]
    assert out.numpy() == pytest.approx(model.predict(x), rel=1e-3, abs=0.1)


def test_rare_classes_can_weigh_as_much():
    x, _, _ = waves(60)
    y = np.array([1] * 4 + [0] * 56)
    plain, balanced, more = (
        ELMClassifier(steps=10, class_weight=weight, **SMALL).fit(x, y).predict_proba(x)[:, 1].mean()
        for weight in (None, "balanced", {0: 1.0, 1: 100.0})
    )
    assert plain < balanced < more
    with pytest.raises(ValueError, match="class_weight"):
        ELMClassifier(class_weight="even").fit(x, y)
    assert "class_weight" in ELMClassifier.__doc__
    assert "class_weight" not in ELMRegressor().get_params()
    assert ELMRegressor().get_params().items() <= ELMClassifier().get_params().items()  # their defaults are equal


def test_ragged_sequences_of_one_channel_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"reshape\(-1, 1\)"):
        ELMClassifier().fit([np.zeros(3), np.zeros(4)], [0, 1])


def test_several_values_of_sequences_are_told():
    x, _, y = waves()
    model = ELMRegressor(units=16, steps=150, random_state=0).fit(x, np.stack([y, 100 * y], 1))
    new, _, truth = waves(seed=1)
    assert model.predict(new).shape == (80, 2)
    assert model.score(new, np.stack([truth, 100 * truth], 1)) > 0.8


def test_equal_random_states_give_equal_models_and_pickles_tell_the_same():
    x, y, _ = waves(30)
    first, second, other = (ELMClassifier(steps=20, random_state=seed).fit(x, y) for seed in (1, 1, 2))
    assert np.array_equal(first.predict_proba(x), second.predict_proba(x))
    assert not np.array_equal(first.predict_proba(x), other.predict_proba(x))
    assert np.array_equal(pickle.loads(pickle.dumps(first)).predict_proba(x), first.predict_proba(x))
    assert not hasattr(clone(first), "network_")


def test_every_model_and_a_budget_can_be_asked_for():
    x, y, _ = waves(30)
    for kind in ("leaky", "gru"):
        model = ELMClassifier(model=kind, budget=3000, steps=10, random_state=0).fit(x, y)
        assert 2000 < model.network_.count_parameters() <= 3000
    leaky = ELMClassifier(model="leaky", steps=2, random_state=0).fit(x, np.arange(30) % 5)
    assert leaky.network_.config.stack[-1].units == 5  # not those of the preset it began from
    with pytest.raises(ConfigError, match="no model 'mlp'"):
        ELMClassifier(model="mlp").fit(x, y)


def test_however_much_validates_something_is_trained_on():
    x, _, y = waves(20)
    model = ELMRegressor(units=4, steps=2, validation_fraction=0.99, random_state=0).fit(x, y)
    assert np.isfinite(model.predict(x)).all()


def test_searches_and_pipelines_take_three_dimensions():
    x, y, _ = waves(40)
    x = np.stack([sequence[:6] for sequence in x])
    pipeline = make_pipeline(FunctionTransformer(lambda x: x[:, ::-1]), ELMClassifier(steps=10, random_state=0))
    search = GridSearchCV(pipeline, {"elmclassifier__units": [4, 8]}, cv=2).fit(x, y)
    assert search.best_params_["elmclassifier__units"] in (4, 8)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([np.zeros((3, 2)), np.zeros((4, 1))], "the same number of channels"),
        ([np.zeros((3, 2)), np.zeros((0, 2))], "sequence 1 has no step"),
        ([np.zeros((3, 2)), np.full((3, 2), np.nan)], "sequence 1, step 0, channel 0: nan"),
        (np.zeros((2, 3, 2, 2)), "at most 3 dimensions"),
    ],
)
def test_wrong_sequences_are_refused_in_words(x, words):
    with pytest.raises(ValueError, match=words):
        ELMClassifier().fit(x, [0, 1])


def test_distinct_values_leave_a_part_for_validation():
    parts = ELMRegressor()._parts(np.linspace(0, 1, 40), seed=0)
    assert len(parts["valid"]) == 6 and not set(parts["train"]) & set(parts["valid"])
    assert len(parts["train"]) == 34


def test_any_setting_of_the_run_can_be_given():
    """They win over the estimator's own; what was logged is kept."""
    X, y, *_ = waves()
    settings = {"training.optimizer": "adamw", "training.weight_decay": 0.1}
    settings |= {"training.eval_every": 2, "training.patience": 2}
    model = ELMClassifier(units=4, steps=10, settings=settings, random_state=0).fit(X, y)
    training = model.config_.training
    assert (training.optimizer, training.weight_decay, training.eval_every, training.patience) == tuple(
        settings.values()
    )
    valid = [line for line in model.history_ if line["event"] == "valid"]
    assert [line["step"] for line in valid] == list(range(2, 2 * len(valid) + 1, 2))
    with pytest.raises(ConfigError, match="training has no setting 'nothing'"):
        ELMClassifier(steps=2, settings={"training.nothing": 1}).fit(X, y)
    settings = {"model.layers.0.neuron.tau_highpass": None, "options.standardise": np.bool_(False)}
    config = ELMClassifier(standardise=np.bool_(True), settings=settings)._configuration(0)
    assert config.model.layers[0].neuron.tau_highpass is None
    assert config.options.to_dict()["standardise"] is False


def test_torch_is_left_as_it_was():
    X, y, *_ = waves()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    ELMClassifier(units=4, steps=2).fit(X, y).predict(X)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_they_learn_where_gradients_are_off(off):
    X, y, *_ = waves(count=20)
    model, with_gradients = ELMClassifier(steps=2, **SMALL), ELMClassifier(steps=2, **SMALL).fit(X, y)
    with off():
        told = model.fit(X, y).predict_proba(X)
    assert np.array_equal(told, with_gradients.predict_proba(X))
