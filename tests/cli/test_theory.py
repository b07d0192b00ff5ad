"""elmnet fit, elmnet plan."""

import csv
import json
import re
import shutil
import subprocess
import sys

import conftest
import pytest
import yaml
from conftest import TRUTH, write_spikes

from elmnet import budget
from elmnet.cli import main
from elmnet.config import NetworkConfig
from elmnet.errors import TheoryError
from elmnet.sweep.learned import learn
from elmnet.sweep.recipe import Recipe
from elmnet.train.config import load_config
from elmnet.train.results import read_runs


def run(capsys, *arguments):
    """As in conftest, output in one line."""
    code, out, err = conftest.run(capsys, *arguments)
    return code, " ".join(out.split()), " ".join(err.split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory, text_file):
    """Six finished runs of tiny networks, one unfinished, one damaged."""
    place = tmp_path_factory.mktemp("sweep")
    for d_m, units in ((3, 16), (4, 14), (5, 12), (6, 10), (8, 8), (10, 6)):
        settings = ["model.layers.0.neuron.branches=4", "model.layers.0.neuron.synapses=3", "options.chunk=10"]
        settings += [f"model.layers.0.units={units}", "options.streams=4", "training.eval_every=5"]
        settings += ["options.final_test_streams=32", "options.final_valid_streams=32"]
        command = ["train", "enwik8", "--data", text_file, "--out", place / f"d{d_m}", "--steps", 5, "-q"]
        command += ["--memory", d_m, "--threads", 1, *(part for s in settings for part in ("--set", s))]
        with pytest.raises(SystemExit, match="0"):
            main([str(part) for part in command])
    shutil.copytree(place / "d3", place / "unfinished")
    (place / "unfinished" / "result.json").unlink()
    shutil.copytree(place / "d3", place / "damaged")
    (place / "damaged" / "config.yaml").write_text("config: [")
    return place


def test_fit_published(capsys, tmp_path):
    file = tmp_path / "fit.json"
    code, out, _ = run(capsys, "fit", "published:enwik8", "--draws", 50, "--json", file)
    assert code == 0
    assert "valid_bpc" in out
    assert "a is fixed at 1: the budgets P' span a factor 1" in out
    assert "arXiv:2605.12049" in out
    document = json.loads(file.read_text())
    assert document["r2"] > 0.99
    assert set(document["intervals"]) == {"L_inf", "D", "kappa_e", "N_r"}
    assert document["constants"]["kappa_c"] == 0


def test_fit_neurons(capsys, tmp_path):
    code, out, _ = run(capsys, "fit", "published:neuronio", "--json", tmp_path / "fit.json")
    assert code == 0
    assert "488.7" in out
    assert json.loads((tmp_path / "fit.json").read_text())[0]["kappa_e"] == pytest.approx(488.708, rel=1e-4)


def test_fit_compares_with_naive_forms(capsys):
    code, out, _ = run(capsys, "fit", "published:enwik8", "--score", "train_bpc", "--draws", 0, "--compare")
    assert code == 0
    assert "quadratic in ln d_m" in out
    assert "profile over a" in out
    assert "no intervals: no bootstrap was asked for" in out


def test_fit_names_who_was_left_out(capsys):
    code, out, _ = run(capsys, "fit", "published:shd-adding", "--draws", 20)
    assert code == 0
    assert "left out: d_m 2, N 155: d_m = 2 is below 3" in out


def test_fit_a_directory_of_runs(capsys, runs):
    table, skipped = read_runs(runs)
    assert (len(table), table.score, table.unit) == (6, "valid_bpc", 1.0)
    assert skipped.keys() == {"unfinished", "damaged"}
    assert skipped["unfinished"] == "not finished"
    want = [json.loads((runs / name / "result.json").read_text())["valid"]["bpc"] for name in table.names]
    assert table.y.tolist() == want
    assert table.P.tolist() == [budget.parameters(load_config(runs / n / "config.yaml").model) for n in table.names]
    test, _ = read_runs(runs, "test_bpc")
    assert test.y.tolist() != want
    code, _, err = run(capsys, "fit", runs, "--draws", 0)
    # five steps teach nothing: these runs are near the loss of knowing nothing, and the fit says so
    assert code == 1
    assert "a fit needs at least 5; left out: d" in err
    assert "that of knowing nothing" in err
    one, two = (runs / name for name in table.names[:2])
    code, _, err = run(capsys, "fit", one, two, "--draws", 0)
    assert code == 1
    assert f"{one}, {two} (2 runs of enwik8" in err


def test_a_run_counts_once(runs, tmp_path):
    """A copy in another directory is the same run."""
    place = shutil.copytree(runs, tmp_path / "runs")
    shutil.copytree(place / "d5", place / "moved" / "here")
    table, skipped = read_runs(place)
    assert len(table) == 6
    assert skipped["moved/here"] == "the same run as d5"


@pytest.mark.parametrize(
    ("score", "words"), [("valid_error", "no score"), ("train_bpc", "they have valid_bpc, test_bpc")]
)
def test_scores_that_runs_do_not_have(runs, score, words):
    with pytest.raises(TheoryError, match=words):
        read_runs(runs, score)


def test_runs_of_several_kinds_are_not_mixed(capsys, runs, tmp_path):
    both = tmp_path / "both"
    shutil.copytree(runs / "d3", both / "text")
    (tmp_path / "spikes").mkdir()
    for part in ("train", "test"):
        write_spikes(tmp_path / "spikes" / f"{part}.h5", count=40)
    command = ["train", "shd", "--data", tmp_path / "spikes", "--out", both / "spikes", "--steps", 1, "-q"]
    command += ["--threads", 1, "--set", "model.layers.0.units=3", "--set", "options.batch=4"]
    code, _, err = run(capsys, *command)
    assert code == 0, err
    with pytest.raises(TheoryError, match=r"mixes enwik8 on .*, shd on"):
        read_runs(both)
    table, _ = read_runs(both / "spikes")
    floors = json.loads((both / "spikes" / "result.json").read_text())["baselines"].values()
    assert (table.score, table.H0) == ("valid_loss", max(floor["valid"]["nats"] for floor in floors))
    errors, _ = read_runs(both / "spikes", "test_error")
    assert 0 <= errors.y[0] <= 1


def test_plan(capsys, tmp_path):
    file, document = tmp_path / "run.yaml", tmp_path / "plan.json"
    code, out, _ = run(capsys, "plan", "enwik8", "--budget", "3516748", "--out", file, "--json", document)
    assert code == 0
    (chosen,) = json.loads(document.read_text())
    assert 17 <= chosen["d_m"] <= 21
    assert chosen["P"] <= 3_516_748
    assert "simple units, d_m = 3" in out
    assert "near-optimal" in out
    config = load_config(file)
    assert budget.parameters(config.model) == chosen["P"]
    assert config.task == "enwik8"
    assert (config.preset, config.data) == ("paper", "official")  # what it has learned from
    assert f"train it on official data, preset paper, 300,000 steps: elmnet train --config {file}" in out


def test_a_plan_can_be_trained(capsys, tmp_path, text_file):
    file = tmp_path / "run.yaml"
    command = ["plan", "enwik8", "--budget", "300_000", "--fixed", "branches=8,synapses=3", "--preset", "tiny"]
    assert run(capsys, *command, "--out", file)[0] == 0
    command = ["train", "--config", file, "--data", text_file, "--steps", 1, "--out", tmp_path / "run", "-q"]
    command += ["--set", "options.final_test_streams=32", "--set", "options.final_valid_streams=32"]
    code, _, err = run(capsys, *command, "--threads", 1, "--set", "options.chunk=5")
    assert code == 0, err


def test_plans_for_several_budgets(capsys):
    code, out, _ = run(capsys, "plan", "shd-adding", "--budget", "75e3,77e3", "--budget", "1e7")
    assert code == 0
    assert out.count("regret at") == 9
    assert out.count("extrapolated: P' = 9,") == out.count("train a few splits of this budget") == 1  # the last one


def test_the_recipe_changes_the_wiring_and_says_what_that_means(capsys):
    code, out, _ = run(capsys, "plan", "enwik8", "--budget", "3516748", "--recipe")
    assert code == 0
    assert "is not that of the fitted runs (750, and what synapses are worth they cannot tell)" in out


@pytest.fixture
def taught(runs, tmp_path):
    """Those six runs with synthetic scores, of a law that a fit can find."""
    place = shutil.copytree(runs, tmp_path / "taught")
    for name in read_runs(runs)[0].names:
        cost = budget.cost(load_config(place / name / "config.yaml").model)
        result = json.loads((place / name / "result.json").read_text())
        result["valid"]["bpc"] = float(TRUTH.loss(cost.units, cost.complexity, cost.connectivity))
        (place / name / "result.json").write_text(json.dumps(result))
    return place


def test_fit_learned_runs_and_draw_them(capsys, taught, tmp_path):
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra `report`)")
    pictures = tmp_path / "figures"
    code, out, err = run(capsys, "fit", taught, "--draws", 0, "--json", tmp_path / "fit.json", "--figures", pictures)
    assert code == 0, err
    document = json.loads((tmp_path / "fit.json").read_text())
    assert document["runs"] == 6
    assert document["rmse"] < 0.01
    assert document["left_out"].keys() == {"unfinished", "damaged"}
    assert sorted(path.stem for path in pictures.glob("*.svg")) == ["budget_curve", "front", "mechanisms", "surface"]
    assert all(str(path) in out for path in pictures.iterdir())


def test_runs_of_several_trainings_are_fitted_with_a_caution(capsys, taught):
    assert read_runs(taught)[0].caution is None
    assert "caution" not in run(capsys, "fit", taught, "--draws", 0)[1]
    for name, (old, new) in {"d3": ("steps: 5\n", "steps: 7\n"), "d5": ("clip: 1.0\n", "clip: 0.5\n")}.items():
        file = taught / name / "config.yaml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
    code, out, _ = run(capsys, "fit", taught, "--draws", 0)
    assert code == 0
    assert "caution: trained differently (5 to 7 steps, 2 training settings or data): the law is of one training" in out
    file.write_text(file.read_text().replace("clip: 0.5\n", "clip: 1.0\n"))
    assert "caution: trained differently (5 to 7 steps): the law" in run(capsys, "fit", taught, "--draws", 0)[1]
    result = json.loads((taught / "d3" / "result.json").read_text())
    result["valid"]["bpc"] = 8.0
    (taught / "d3" / "result.json").write_text(json.dumps(result))
    code, out, _ = run(capsys, "fit", taught, "--draws", 0)
    assert code == 0
    assert "caution" not in out  # the one that was trained longer is left out


def test_runs_of_several_directories_are_learned_from_together(capsys, taught, tmp_path):
    other = shutil.copytree(taught, tmp_path / "other")
    for name in ("d3", "d5"):
        shutil.rmtree(taught / name)
        (other / name).rename(other / f"{name} again")
    both = learn([str(taught), str(other)])
    assert len(both.runs) == 6
    assert {str(other / "d3 again"), str(taught / "d8")} <= set(both.runs.names)
    assert both.skipped[str(other / "d8")] == f"the same run as {taught / 'd8'}"
    command = ["plan", "--hidden", "1500", "--fixed", "branches=4,synapses=3"]
    code, out, err = run(capsys, *command, "--from", taught, "--from", other, "--json", tmp_path / "p.json")
    assert code == 0, err
    assert "(6 runs of enwik8" in out
    assert json.loads((tmp_path / "p.json").read_text())[0]["cautions"] == []
    for second in ("published:enwik8", "nowhere"):
        code, _, err = run(capsys, *command, "--from", taught, "--from", second)
        assert code == 2 and f"runs from several places are of directories; {second} is none" in err


def test_a_plan_from_runs_is_trained_like_them(capsys, taught, tmp_path, text_file):
    file, theirs = tmp_path / "p.yaml", load_config(taught / "d5" / "config.yaml")
    command = ["plan", "--from", taught, "--hidden", "1500", "--fixed", "branches=4,synapses=3", "--out", file]
    code, out, err = run(capsys, *command)
    assert code == 0, err
    config = load_config(file)
    assert f", 5 steps: elmnet train --config {file}" in out
    assert config.replace(model=theirs.model) == theirs
    assert config.model.with_hidden(units=12, memory=5) == theirs.model
    code, out, err = run(capsys, "train", "--config", file, "--out", tmp_path / "run", "-q")
    assert code == 0, err
    assert run(capsys, *command, "--preset", "paper")[0] == 0
    paper = load_config(file)
    assert paper.model == config.model
    assert (paper.data, paper.training.steps) == (theirs.data, 300_000)


def test_runs_may_say_the_task(capsys, tmp_path, text_file):
    code, out, _ = run(capsys, "plan", "--from", "published:enwik8", "--budget", 3516748, "--out", tmp_path / "p.yaml")
    assert code == 0 and "742" in out
    assert yaml.safe_load((tmp_path / "p.yaml").read_text())["task"] == "enwik8"
    code, _, err = run(capsys, "plan", "--budget", 3516748)
    assert code == 2 and "name a task" in err


def test_plan_without_runs_only_allocates(capsys):
    code, out, _ = run(capsys, "plan", "shd", "--budget", "1e5")
    assert code == 0
    assert "priors alone, allocation only" in out
    assert "regret" not in out


def test_a_plan_for_a_run_s_network_by_priors_alone(capsys, tmp_path, text_file):
    """Who has data and a first run of any task, but no runs to fit."""
    small = ["--set", "model.layers.0.units=8", "--set", "options.final_test_streams=32", "--steps", 2, "-q"]
    assert run(capsys, "train", "enwik8", "--data", text_file, "--out", tmp_path / "run", *small)[0] == 0
    command = ["plan", "--network", tmp_path / "run", "--hidden", "2e5"]
    code, out, err = run(capsys, *command, "--out", tmp_path / "plan.yaml", "--json", tmp_path / "plan.json")
    assert code == 0, err
    assert "no runs of enwik8: priors alone" in out
    begun, chosen = (load_config(tmp_path / name) for name in ("run/config.yaml", "plan.yaml"))
    (told,) = json.loads((tmp_path / "plan.json").read_text())
    assert chosen == begun.replace(model=begun.model.with_hidden(units=told["N"], memory=told["d_m"]))
    assert 1.9e5 < budget.cost(chosen.model).hidden <= 2e5 and told["loss"] is None
    code, _, err = run(capsys, "plan", "--network", tmp_path / "nothing", "--budget", 1e5)
    assert code == 2 and "there is no run and no file" in err
    for extra, words in (
        (["shd"], "--network .* is of enwik8, the plan is for shd"),
        (["--score", "valid_bpc"], "--score is of runs to learn from; beside --network"),
        (["--configs", tmp_path / "x.csv"], "--configs needs runs to learn from"),
    ):
        code, _, err = run(capsys, *command, *extra)
        assert code == 2 and re.search(words, " ".join(err.split())), err


def planned(document, preset):
    """The only plan in a file, and its network."""
    (chosen,) = json.loads(document.read_text())
    shape = {"units": chosen["N"], "memory": chosen["d_m"], "branches": chosen["d_tree"], "synapses": chosen["d_s"]}
    return chosen, NetworkConfig.preset(preset).with_hidden(**shape)


@pytest.mark.parametrize(
    ("option", "value", "kind", "price"),
    [
        ("--flops", 3e6, "FLOPs per step", lambda n: budget.cost(n).flops),
        ("--hidden", 1e6, "hidden-layer parameters", lambda n: budget.cost(n).hidden),
        ("--file-bytes", 2e7, "bytes", budget.saved_bytes),
        ("--training-bytes", 1e9, "bytes while training (batch 8, T 100)", lambda n: budget.training_bytes(n, 8, 100)),
    ],
)
def test_other_budgets(capsys, tmp_path, option, value, kind, price):
    code, _, err = run(capsys, "plan", "enwik8", option, value, "--json", tmp_path / "p.json")
    assert code == 0, err
    chosen, network = planned(tmp_path / "p.json", "enwik8")
    assert chosen["kind"] == kind
    assert 0.99 * value < chosen["price"] <= value
    assert chosen["price"] == price(network)


@pytest.mark.parametrize(
    ("arguments", "batch"),
    [
        (["enwik8", "--batch", 4, "--length", 50], "batch 4, T 50"),
        (["shd-adding"], "batch 8, T 1000"),
        (["shd", "--preset", "tiny", "--length", 30], "batch 16, T 30"),
    ],
)
def test_memory_is_that_of_a_batch(capsys, arguments, batch):
    """Of the task's published training unless something else is asked for."""
    code, out, err = run(capsys, "plan", *arguments, "--training-bytes", 1e9)
    assert code == 0, err
    assert f"bytes while training ({batch})" in out


def test_memory_is_that_of_a_batch_of_the_runs(capsys, taught, tmp_path):
    rest = ["--fixed", "branches=4,synapses=3", "--json", tmp_path / "p.json"]
    code, _, err = run(capsys, "plan", "--from", taught, "--training-bytes", 4e5, *rest)
    assert code == 0, err
    assert json.loads((tmp_path / "p.json").read_text())[0]["kind"] == "bytes while training (batch 4, T 10)"


def test_latency_budget(capsys, monkeypatch, tmp_path):
    from elmnet.bench import latency

    def measured(network, seconds=0.0):  # grows faster than a line through the sizes that are tried
        return 20 + 0.5 * network.layers[0].units + 0.01 * network.layers[0].units ** 2

    monkeypatch.setattr(latency, "SIZES", [(16, 3), (64, 3), (16, 10), (64, 10)])
    monkeypatch.setattr(latency, "measured", measured)
    code, out, _ = run(capsys, "plan", "shd-adding", "--latency-us", 150, "--json", tmp_path / "p.json")
    assert code == 0
    chosen, network = planned(tmp_path / "p.json", "shd-adding")
    assert chosen["price"] == measured(network) <= 150
    assert f"measured here: {chosen['price']:.0f} µs per streamed step, 150 asked" in out


def test_design(capsys):
    code, out, _ = run(capsys, "plan", "enwik8", "--budget", "1e6", "--design", 2)
    assert code == 0
    assert "runs that would tell most" in out


def test_a_design_is_a_recipe(capsys, tmp_path):
    file = tmp_path / "next.yaml"
    code, out, _ = run(capsys, "plan", "enwik8", "--budget", "1e6", "--design", 2, "--design-out", file)
    assert code == 0
    assert f"train them on official data, preset paper, 300,000 steps: elmnet sweep run {file}" in out
    recipe = Recipe.read(file)
    assert (recipe.name, recipe.task, recipe.preset, recipe.data, recipe.set) == (
        "enwik8-next",
        "enwik8",
        "paper",
        "official",
        None,
    )
    rows = recipe.trials[0].list
    assert len(rows) == 2
    for row in rows:
        assert (row["branches"], row["synapses"]) == (50, 15)
        assert f"{row['units']:,}" in out


def test_predictions_of_given_networks(capsys, tmp_path):
    file = tmp_path / "networks.csv"
    file.write_text("\ufeffN,d_m,d_tree,d_s\n1024,15,50,15\n\n100000,30,50,15\n1024,15,50,1\n")
    code, out, _ = run(capsys, "plan", "enwik8", "--configs", file, "--json", tmp_path / "losses.json")
    assert code == 0
    assert "3,516,748" in out
    near, far, bare = json.loads((tmp_path / "losses.json").read_text())
    low, high = near["interval"]
    assert low < near["loss"] < high
    assert far["interval"] is bare["interval"] is None
    assert all(f"extrapolated: {one['extrapolated']}" in out for one in (far, bare))
    assert (near["P"], near["extrapolated"]) == (3_516_748, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "enwik8"], "name a budget"),
        (["plan", "enwik8", "--budget", "100"], "4 units of d_m = 3 already take 233,080"),
        (["plan", "enwik8", "--budget", "many"], "--budget: expected positive numbers separated by commas, got 'many'"),
        (
            ["plan", "enwik8", "--budget", "1e6", "--flops", "1e6"],
            "one kind of budget at a time, got --budget, --flops",
        ),
        (["plan", "enwik8", "--flops", "-1"], "--flops must be positive, got -1"),
        (["plan", "enwik8", "--budget", "1e6", "--fixed", "d_m=3"], "--fixed: expected branches=NUMBER"),
        (["plan", "enwik8", "--budget", "1e6", "--recipe", "--fixed", "branches=3"], "leave branches out"),
        (["plan", "enwik8", "--budget", "1e6,2e6", "--design", "2"], "--out and --design take one budget"),
        (["plan", "enwik8", "--budget", "1e6", "--from", "published:mnist"], "no published runs of 'mnist'"),
        (["plan", "enwik8", "--budget", "1e6", "--from", "nowhere"], "nowhere is neither a directory of runs, nor"),
        (["plan", "shd", "--budget", "1e5", "--h0", "3"], "--h0 is of runs to learn from; there are none published"),
        (["plan", "shd", "--budget", "1e5", "--least-memory", "2"], "--least-memory is of runs to learn from"),
        (["plan", "enwik8", "--budget", "1e6", "--least-memory", "0"], "--least-memory must be 1 to 200, got 0"),
        (["fit", "published:enwik8", "--least-memory", "0"], "--least-memory must be 1 to 200, got 0"),
        (["fit", "published:enwik8", "--h0", "5"], "--network and --h0 are for a .csv or .parquet table"),
        (["fit", "nowhere.csv"], "nowhere.csv: not a table of comma-separated values"),
        (["plan", "shd", "--budget", "1e5", "--design", "1"], "--design needs runs"),
        (["plan", "shd", "--budget", "1e5", "--configs", "x.csv"], "--configs needs runs"),
        (
            ["plan", "neuronio", "--budget", "1e5"],
            "without runs are for the tasks enwik8, shd-adding and shd, got 'neuronio'",
        ),
        (["plan", "shd", "--budget", "1e5", "--from", "published:enwik8"], "runs are of enwik8, the plan is for shd"),
        *(
            (["plan", "enwik8", "--configs", "x.csv", *more.split()], "--configs asks for the loss of given networks")
            for more in ("--budget 1e6", "--fixed synapses=3", "--recipe", "--choose-synapses", "--preset tiny")
        ),
        (["plan", "enwik8", "--budget", "1e6", "--preset", "tiny"], "--preset is of the training that --out and --de"),
        (
            ["plan", "enwik8", "--budget", "1e6", "--design-out", "next.yaml"],
            "--design-out writes the runs of --design N",
        ),
        (["plan", "enwik8", "--budget", "1e6", "--batch", "3"], "--batch and --length are for --training-bytes"),
        (["plan", "enwik8", "--training-bytes", "1e9", "--batch", "0"], "--batch must be at least 1, got 0"),
        (["plan", "shd", "--budget", "1e5", "--score", "valid_loss"], "--score is of runs to learn from"),
        (["plan", "shd", "--budget", "1e5", "--figures", "x"], "--figures needs runs to learn from"),
        (["plan", "enwik8", "--budget", "1e6", "--choose-synapses"], "what synapses are worth these runs cannot tell"),
        (["plan", "shd", "--budget", "1e6", "--choose-synapses"], "--choose-synapses needs runs to learn from"),
        (
            ["plan", "enwik8", "--budget", "1e6", "--choose-synapses", "--fixed", "synapses=3"],
            "leave out --recipe and --fixed synapses=",
        ),
        (["fit", "published:enwik8", "--score", "bpc"], "has no score 'bpc'"),
        (["fit", "published:enwik8", "--fix", "a"], "--fix: expected NAME=NUMBER, got 'a'"),
        (["fit", "published:enwik8", "--fix", "D=1"], "only kappa_c and a can be held"),
        (["fit", "published:neuronio", "--compare"], "published:neuronio holds single neurons"),
    ],
)
def test_bad_input(capsys, arguments, words):
    code, _, err = run(capsys, *arguments)
    assert code in (1, 2)
    assert words in err


def as_table(runs, file):
    """What `sweep collect` would write of these runs, as far as a fit needs it."""
    rows = []
    for name in read_runs(runs)[0].names:
        result, config = json.loads((runs / name / "result.json").read_text()), load_config(runs / name / "config.yaml")
        scores = {f"{split}_{kind}": x for split in ("valid", "test") for kind, x in result[split].items()}
        about = {
            "trial": name,
            "configuration": name,
            "state": "done",
            "data": result["data"],
            "model": "elm",
            **scores,
        }
        rows.append({**about, "config": json.dumps(config.to_dict()), "baselines": json.dumps(result["baselines"])})
    write(file, [*rows, rows[0], {**rows[0], "trial": "early", "state": "failed", "reason": "the disk was full"}])
    return rows


def write(file, rows):
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, rows[0] | rows[-1])
        writer.writeheader()
        writer.writerows(rows)


def test_a_table_is_as_good_as_its_runs(capsys, taught, tmp_path):
    file, path = tmp_path / "table.csv", tmp_path / "plan.yaml"
    as_table(taught, file)
    for place, source in (("table", file), ("runs", taught)):
        assert run(capsys, "fit", source, "--draws", 0, "--json", tmp_path / f"{place}.json")[0] == 0
    one, other = (json.loads((tmp_path / f"{place}.json").read_text()) for place in ("table", "runs"))
    assert one["constants"] == other["constants"]
    assert one["left_out"] == {"row 7": "the same run as d10", "early": "the disk was full"}
    code, out, err = run(capsys, "plan", "--from", file, "--hidden", 1500, "--fixed", "branches=4", "--out", path)
    assert code == 0, err
    assert "train it like d3, 5 steps" in out
    theirs = load_config(taught / "d3" / "config.yaml")
    assert load_config(path).replace(model=theirs.model) == theirs


def test_tables_of_other_origin(capsys, taught, tmp_path):
    """Sizes and scores are enough where somebody says of which network."""
    file, path, document = tmp_path / "table.csv", tmp_path / "plan.yaml", tmp_path / "fit.json"
    model = load_config(taught / "d5" / "config.yaml").model
    table, _ = read_runs(taught)
    rows = [
        {"num_hidden": int(N), "num_memory": int(d_m), "valid_bpc": y, "P": int(P)}
        for N, d_m, y, P in zip(table.N, table.d_m, table.y, table.P, strict=True)
    ]
    write(file, rows)
    named = ["--network", taught / "d5" / "config.yaml", "--h0", table.H0]
    code, _, err = run(capsys, "fit", file, *named, "--draws", 0, "--json", document)
    assert code == 0, err
    assert run(capsys, "fit", taught, "--draws", 0, "--json", tmp_path / "runs.json")[0] == 0
    assert (
        json.loads(document.read_text())["constants"] == json.loads((tmp_path / "runs.json").read_text())["constants"]
    )
    code, out, err = run(capsys, "plan", "--from", file, *named, "--hidden", 1500, "--out", path)
    assert code == 0, err
    assert "train it like the run named, 5 steps" in out
    chosen, like = load_config(path), load_config(taught / "d5" / "config.yaml")
    assert chosen.replace(model=model) == like
    assert f"{budget.parameters(chosen.model):,}" in out
    assert chosen.model.replace(layers=model.layers) == model
    for options, words in (
        ([], "does not tell its networks whole"),
        (["--network", "enwik8", "--h0", 5], "inputs, outputs or read-out are others"),
        (["--network", "mnist", "--h0", 5], "no preset 'mnist'"),
        ([*named[:2], "--h0", "nan"], "H0, the valid_bpc of knowing nothing, must be positive, got nan"),
    ):
        assert words in run(capsys, "fit", file, *options)[2]
    write(file, rows + [{**row, "num_hidden": 3 * row["num_hidden"], "P": None} for row in rows])
    code, out, err = run(capsys, "fit", file, *named, "--draws", 0, "--compare")
    assert code == 2
    assert "--compare describes one fixed-budget curve; these runs have several budgets" in err
    assert "these runs are of enwik8, the plan is for shd" in run(capsys, "plan", "shd", "--from", file, *named)[2]


def test_damaged_tables(capsys, taught, tmp_path):
    file = tmp_path / "table.csv"
    rows = as_table(taught, file)
    whole = file.read_text()
    assert "leave out --network and --h0" in run(capsys, "fit", file, "--network", "enwik8", "--h0", 5)[2]
    write(file, [*rows, {**rows[0], "trial": "torn", "config": "{"}])
    assert "torn is damaged" in run(capsys, "fit", file)[2]
    file.write_text(whole[: len(whole) // 2])
    assert "not a table of comma-separated values" in run(capsys, "fit", file)[2]
    file.write_text("N,d_m\n1,2\n1\n")
    assert "line 3 has 1 values for 2 columns" in run(capsys, "fit", file)[2]
    file.write_text("N,d_m,d_m\n1,2,2\n")
    assert "has several columns 'd_m'; keep one" in run(capsys, "fit", file)[2]
    file.write_text("N,d_m,valid_bpc,state\n1,2,3,waiting\n")
    assert "no finished run; row 1: waiting" in run(capsys, "fit", file, "--network", "enwik8", "--h0", 5)[2]
    write(file, [{**row, "state": "waiting"} for row in rows])
    assert "holds no finished run; d10: waiting" in run(capsys, "fit", file)[2]
    file.with_suffix(".parquet").write_bytes(b"PAR1")
    assert "damaged" in run(capsys, "fit", file.with_suffix(".parquet"))[2]


def test_bad_csv(capsys, tmp_path):
    file = tmp_path / "networks.csv"
    for text, words in (
        ("units,memory\n1,2\n", "expected a CSV file with columns N,d_m"),
        ("N,d_m\n10,3\nten,3\n", "line 3"),
        ("N,d_m\n0,3\n", "units must be at least 1, got 0"),
        ("N,d_m\n1,2,3\n", "line 2"),
        ("N,d_m,d_m\n1,2,3\n", "got N,d_m,d_m"),
        ("", "not a CSV file"),
        ("N,d_m\n", "has a line of names and no networks"),
        ("N,d_m\n\xff,2\n", "not a CSV file"),
    ):
        file.write_text(text, encoding="latin-1")
        code, _, err = run(capsys, "plan", "enwik8", "--configs", file)
        assert code in (1, 2)
        assert words in err


def test_a_plan_needs_no_torch():
    code = "import sys\nfrom elmnet.cli import main\n"
    code += (
        "try: main(['plan', 'enwik8', '--budget', '1e6'])\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
