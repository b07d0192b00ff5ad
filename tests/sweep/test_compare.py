import csv
import json

import conftest
import pytest
from scipy.stats import ttest_1samp

from elmnet.errors import ConfigError
from elmnet.report import of_sweep
from elmnet.report.figures import svg
from elmnet.report.page import Section
from elmnet.sweep.compare import compare
from elmnet.train.config import amend, compose
from elmnet.train.results import Finished

STUDENT = {1: 12.7062047, 2: 4.3026527}
"""The 97.5 % quantile of Student's t, of a table, by degrees of freedom."""


def run(name: str, bpc: float, accuracy: float = 0.5, **settings) -> Finished:
    given = {"training.reset_steps": 4, "training.steps": 8, **{k.replace("__", "."): v for k, v in settings.items()}}
    seed, model = given.pop("seed", 0), given.pop("model", "elm")
    like = compose("enwik8", preset="tiny", seed=seed)
    config = amend(like if model == "elm" else like.with_model(model), settings=given)
    scores = {"bpc": bpc, "accuracy": accuracy}
    return Finished(name, config, "mine", {"valid": scores, "test": scores}, [])


def crossed():
    """Two rates, three seeds: what a seed does to both is ten times what the rate does."""
    scores = {0.01: [10.0, 20.0, 30.0], 0.02: [9.0, 18.0, 27.0]}
    return [
        run(f"{rate} {seed}", bpc, 1 / bpc, training__learning_rate=rate, seed=seed)
        for rate, group in scores.items()
        for seed, bpc in enumerate(group)
    ]


def test_differences_are_taken_within_pairs():
    found = compare(crossed(), "learning_rate")
    first, second = found.values
    assert (found.by, found.against, found.score) == ("learning_rate", 0.01, "valid_bpc")
    assert (first.value, first.mean, first.differences, first.interval) == (0.01, 20.0, (), None)
    assert (second.value, second.mean, second.differences) == (0.02, 18.0, (-1.0, -2.0, -3.0))
    half = STUDENT[2] / 3**0.5
    assert second.difference == -2
    assert second.interval == pytest.approx((-2 - half, -2 + half))
    assert (found.better(second), second.unpaired) == (3, 0)
    assert (found.shared, found.along) == (("seed",), ())
    assert list(found.remarks()) == ["pairs share seed"]


def test_p_knows_how_many_values_are_compared():
    """Of several values SciPy's p of each, by Holm's method: the least counts once for each, the next once less."""
    scores = {0.02: [9.0, 18.0, 27.0], 0.03: [9.5, 19.4, 29.6], 0.04: [10.2, 19.9, 30.1]}
    runs = [run(f"{r} {i}", y, training__learning_rate=r, seed=i) for r, g in scores.items() for i, y in enumerate(g)]
    found = compare([*crossed()[:3], *runs], "learning_rate")
    raw = [ttest_1samp(one.differences, 0).pvalue for one in found.values[1:]]
    assert [one.chance for one in found.values[1:]] == pytest.approx(raw)
    assert raw[1] < raw[0] < raw[2]
    assert found.chances[0] is None
    assert found.chances[1:] == pytest.approx((2 * raw[0], 3 * raw[1], raw[2]))
    assert "p is adjusted for 3 values compared (Holm); each interval stands by itself" in list(found.remarks())
    assert [row[6] for row in found.table().rows] == ["", *(f"{p:.4f}" for p in found.chances[1:])]
    assert found.to_dict()["values"][2]["p"] == found.chances[2]


def test_p_of_pairs_that_all_differ_alike():
    alike = [run(f"{rate} {s}", s + rate, training__learning_rate=rate, seed=s) for rate in (0.5, 0.25) for s in (0, 1)]
    same = [run(f"same {s}", 0.25 + s, training__learning_rate=0.75, seed=s) for s in (0, 1)]
    found = compare([*alike, *same], "learning_rate")
    assert found.chances == (None, 0.0, 1.0)
    assert found.table().rows[1][6] == "< 0.0001"
    assert compare(crossed()[:-2], "learning_rate").chances == (None, None)  # of one pair


def test_more_is_better_of_some_scores():
    found = compare(crossed(), "training.learning_rate", score="test_accuracy", against="2e-2")
    assert (found.against, found.sense) == (0.02, "more is better")
    (low,) = found.values[1:]
    assert low.difference < 0
    assert found.better(low) == 0


def test_runs_without_a_partner_are_in_no_pair():
    found = compare(crossed()[:-1], "learning_rate", against="0.02")
    (low,) = found.values[1:]
    assert (low.differences, low.unpaired) == ((1.0, 2.0), 1)
    half = STUDENT[1] * 0.5
    assert low.interval == pytest.approx((1.5 - half, 1.5 + half))
    assert "1 of 3 runs of 0.01 have no partner of 0.02" in list(found.remarks())
    assert compare(crossed()[:-2], "learning_rate").values[1].interval is None  # of one pair


def test_what_cannot_be_shared_is_named():
    """Other networks have other sizes, and here another rate; seeds are shared."""
    runs = [run(f"e{s}", 4.0 + s, seed=s) for s in (0, 1)]
    runs += [run(f"g{s}", 3.0 + s, seed=s, model="gru", training__learning_rate=0.02) for s in (0, 1)]
    found = compare(runs, "model")
    assert (found.against, found.values[1].value, found.values[1].differences) == ("elm", "gru", (-1.0, -1.0))
    assert found.shared == ("seed",)
    assert {"N", "d_m", "P", "training.learning_rate"} <= set(found.along)
    assert not any(name.startswith("model.") for name in found.along)
    assert "N" in compare(runs, "learning_rate").along


def test_sizes_by_their_symbols_and_by_their_settings():
    runs = [
        run(f"{d_m} {s}", 4 - d_m / 10 + s, seed=s, model__layers__0__neuron__memory=d_m)
        for d_m in (3, 6)
        for s in (0, 1)
    ]
    other = run("gru", 3.0, model="gru")
    for by in ("d_m", "model.layers.0.neuron.memory"):
        found = compare(runs, by)
        assert found.values[1].differences == pytest.approx((-0.3, -0.3))
        assert "k_e" in found.along
    found = compare([*runs, other], "d_m")
    assert [one.value for one in found.values] == [3, 6]
    assert "1 of 5 runs have no d_m" in list(found.remarks())


def test_several_runs_of_a_pair_count_as_their_mean():
    found = compare(crossed(), "learning_rate", within=[])
    (high,) = found.values[1:]
    assert (high.differences, high.interval) == ((-2.0,), None)
    assert next(iter(found.remarks())) == "nothing that varies is the same in both of a pair"


def test_a_run_that_stands_twice_counts_once():
    assert compare([*crossed(), *crossed()], "learning_rate").values[1].differences == (-1.0, -2.0, -3.0)


@pytest.mark.parametrize(
    ("by", "options", "words"),
    [
        ("dropout", {}, "'dropout' is no setting of these runs; they differ in seed, training.learning_rate"),
        ("steps", {}, "'steps' is the same in all runs"),
        ("learning_rate", {"against": "3"}, "--against: training.learning_rate is 0.01, 0.02 in these runs, never 3"),
        (
            "learning_rate",
            {"score": "valid_rmse"},
            "not all of these runs have 'valid_rmse'; they have valid_bpc, valid_accuracy",
        ),
        ("learning_rate", {"within": ["steps"]}, "'steps' is the same in all runs"),
    ],
)
def test_what_cannot_be_compared_is_said(by, options, words):
    with pytest.raises(ConfigError) as error:
        compare(crossed(), by, **options)
    assert words in str(error.value)


def test_no_runs_and_no_numbers():
    with pytest.raises(ConfigError, match="no finished run"):
        compare([], "model")
    other = Finished("rmse", crossed()[0].config, "mine", {"valid": {"rmse": 1.0}, "test": {"rmse": 1.0}}, [])
    with pytest.raises(ConfigError, match=r"not all of these runs have 'valid_nats'; they have no score in common"):
        compare([*crossed(), other], "learning_rate")
    with pytest.raises(ConfigError, match="valid_bpc of bad is no number"):
        compare([*crossed(), run("bad", float("nan"), seed=7)], "learning_rate")


def test_the_command_takes_a_table_and_draws(capsys, tmp_path):
    table = tmp_path / "table.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "configuration", "state", "data", "config", "baselines", "valid_bpc", "test_bpc"])
        for one in crossed():
            config, score = json.dumps(one.config.to_dict()), one.scores["valid"]["bpc"]
            writer.writerow([one.name, one.name, "done", "mine", config, "{}", score, score])
        writer.writerow(["x", "x", "failed", "mine", "", "", "", ""])
    out = tmp_path / "found.json"
    pictures = ("--figures", str(tmp_path / "drawn"))
    code, text, _ = conftest.run(capsys, "compare", str(table), "--by", "learning_rate", "--json", str(out), *pictures)
    assert code == 0
    assert "-2.0000" in text
    assert "3 of 3" in text
    assert "1 left out: x: failed" in text
    assert json.loads(out.read_text())["values"][1]["differences"] == [-1, -2, -3]
    assert (tmp_path / "drawn" / "compare.svg").stat().st_size > 1000
    code, _, err = conftest.run(capsys, "compare", str(out), "--by", "model")
    assert code == 2
    assert "neither a directory of runs nor a .csv or .parquet table" in err


def test_reports_of_sweeps_compare_kinds_of_network():
    kinds = [
        run(f"{kind} {s}", bpc + s, seed=s, model=kind) for kind, bpc in (("elm", 4.0), ("gru", 3.0)) for s in (0, 1)
    ]

    def section_of(runs):
        section = Section("a sweep")
        of_sweep._kinds(section, runs)
        return section

    section = section_of(kinds)
    assert [row[0] for row in section.tables[0].rows] == ["elm", "gru"]
    assert section.tables[0].rows[1][4] == "-1.0000"
    assert "pairs share seed" in section.figures[0].words
    assert "gru" in svg(section.figures[0].draw)
    assert not section_of(crossed()).tables  # of one kind
    diverged = section_of([*kinds, run("bad", float("nan"), seed=2)])
    assert not diverged.tables
    assert "is no number" in diverged.words[0]
