"""Plans: integer vectors, exact budgets, refusals, regrets, other kinds of budget, designs."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from conftest import TRUTH, simulated

from elmnet import budget
from elmnet.config import NetworkConfig
from elmnet.errors import BudgetError, ConfigError, TheoryError
from elmnet.theory import SNRR, Limit, Wiring, answers, design, fit, plan, published
from elmnet.theory.fit import open_worlds
from elmnet.theory.next_runs import _around
from elmnet.theory.planner import candidates, fitting, predict, prior_worlds, sizes, wirings

ENWIK8 = NetworkConfig.preset("enwik8")
PUBLISHED = Wiring(50, 15)


@pytest.fixture(scope="module")
def known():
    return fit(published("enwik8", "valid_bpc"), draws=100)


@pytest.mark.parametrize(("name", "wiring"), [("V9 ", Wiring(50, 15)), ("V10", Wiring(None, 15))])
def test_golden_integer_plans(shared, name, wiring):
    document = json.loads((shared / "golden" / "theory_vectors.json").read_text())
    (vector,) = [v for v in document["vectors"] if v["name"].startswith(name)]
    law = SNRR.from_dict(document["theta"][vector["inputs"]["theta"]])
    networks = candidates(ENWIK8, Limit(vector["inputs"]["P"]), wiring)
    losses = law.loss(*sizes(networks))
    best = networks[int(losses.argmin())]
    first, want = best.layers[0], vector["outputs"]
    got = {"d_m": first.neuron.memory, "N": first.units, "P": budget.parameters(best), "L": losses.min()}
    got["d_tree"] = first.neuron.branches
    assert {key: got[key] for key in want} == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("score", ["train_bpc", "valid_bpc", "test_bpc"])
def test_the_published_budget(score):
    chosen = plan(ENWIK8, 3_516_748, PUBLISHED, fit(published("enwik8", score), draws=100))
    assert 17 <= chosen.network.layers[0].neuron.memory <= 21
    assert chosen.near_optimal[0] <= chosen.network.layers[0].neuron.memory <= chosen.near_optimal[1]
    low, high = chosen.best_memory
    assert 15 <= low <= high <= 22
    regrets = {rival.name: rival.regret for rival in chosen.rivals}
    assert regrets["simple units, d_m = 3"] > 0.03
    assert all(-1e-9 <= regret < 0.01 for name, regret in regrets.items() if "simple" not in name)


@pytest.mark.parametrize("value", [240_000, 350_000, 1_000_000, 3_516_748, 20_000_000, 10**9])
def test_a_plan_spends_its_budget_or_says_why(known, value):
    chosen = plan(ENWIK8, Limit(value), PUBLISHED, known)
    spent = budget.parameters(chosen.network)
    assert spent == chosen.price <= value
    assert spent >= 0.995 * value or "one unit more would take" in chosen.unused


def test_an_impossible_budget_is_refused_with_the_least_possible(known):
    with pytest.raises(BudgetError, match=r"4 units of d_m = 3 already take ([\d,]+)") as refused:
        plan(ENWIK8, Limit(1000), PUBLISHED, known)
    least = int(str(refused.value).rsplit(" ", 1)[1].replace(",", ""))
    assert plan(ENWIK8, Limit(least), PUBLISHED, known).network.layers[0].units == 4
    with pytest.raises(BudgetError):
        plan(ENWIK8, Limit(least - 1), PUBLISHED, known)


def test_a_loss_far_from_the_runs_is_an_extrapolation(known):
    near, far = (plan(ENWIK8, Limit(value), PUBLISHED, known) for value in (3_516_748, 5e6))
    assert near.extrapolated is None
    low, high = near.interval
    assert low <= near.loss <= high
    assert far.interval is None
    assert "a = 0.5" in far.extrapolated
    assert "a = 1.5" in far.extrapolated


def test_what_synapses_are_worth_is_an_extrapolation_where_all_runs_have_the_same(known):
    near, far = (plan(ENWIK8, Limit(3_516_748), Wiring(50, d_s), known) for d_s in (16, 20))
    assert near.extrapolated is None
    assert far.interval is None
    assert "k_c = 1,000 is not that of the fitted runs (750, and what synapses are worth they cannot tell)" in (
        far.extrapolated
    )
    several = fit(simulated([1e5, 1e6], [4, 15, 40]), draws=0)
    assert several.outside(1e5, 200 / 2) is None
    assert several.outside(1e5, 90) == "k_c = 90 is not that of the fitted runs (200 to 2,000)"


def test_other_exponents_hold_what_was_held():
    known = fit(published("enwik8"), fixed={"kappa_c": 400}, draws=0)
    chosen = plan(ENWIK8, Limit(1e8), PUBLISHED, known)
    other = fit(published("enwik8"), fixed={"kappa_c": 400, "a": 0.5}, draws=0)
    (want,) = predict(other, [chosen.network])
    assert f"with a = 0.5 it would be {want.loss:.4f}" in chosen.extrapolated


def test_a_plan_keeps_the_proportions_of_the_mlp(known):
    wide = plan(ENWIK8.with_hidden(hidden=60), Limit(3_516_748), PUBLISHED, known).network.layers[0].neuron
    assert wide.mlp_widths[1] == 4 * wide.memory


def test_synapses_are_chosen_where_runs_tell_what_they_are_worth(known):
    taught = fit(simulated([1e5, 1e6, 1e7], [4, 15, 40]), draws=50)
    options = wirings(taught, 50)
    assert (options[0].synapses, options[-1].synapses, len(options)) == (2, 80, 21)
    chosen = plan(ENWIK8, Limit.hidden(2e6), options, taught)
    best, unit = TRUTH.optimum_free(2e6), chosen.network.layers[0].neuron
    assert unit.connectivity == pytest.approx(best.connectivity, rel=0.15)
    assert budget.complexity(unit) == pytest.approx(best.complexity, rel=0.15)
    assert chosen.loss == pytest.approx(best.loss, abs=2e-3)
    low, high = chosen.best_connectivity
    assert low <= unit.connectivity <= high
    assert plan(ENWIK8, Limit.hidden(2e6), options[5], taught).best_connectivity is None
    small = plan(ENWIK8, Limit.hidden(5e3), options, taught)  # 4 units of 4,000 synapses would not fit
    assert small.network.layers[0].neuron.synapses == 2
    with pytest.raises(BudgetError, match="too small"):
        plan(ENWIK8, Limit.hidden(1e3), options, taught)
    with pytest.raises(TheoryError, match="runs cannot tell: kappa_c is 0: k_c varies by a factor 1"):
        wirings(known, 50)
    with pytest.raises(TheoryError, match="9000 branches have no number of synapses with k_c in 100 to 4,000"):
        wirings(taught, 9000)


def test_rivals_are_the_published_networks_whatever_was_run(known):
    start = ENWIK8.with_hidden(units=10, memory=99, branches=3)
    rivals = {rival.name: rival.network.layers[0].neuron for rival in plan(start, Limit(2e6), PUBLISHED, known).rivals}
    assert (rivals["published unit, d_m = 15"].branches, len(rivals)) == (50, 3)
    narrow = plan(ENWIK8.with_hidden(hidden=15), Limit(3_516_748), PUBLISHED, known)
    shapes = {rival.name: rival.network.layers[0] for rival in narrow.rivals}
    assert shapes["published unit, d_m = 15"] == ENWIK8.layers[0]
    recipe = shapes["the paper's recipe, d_m ∝ √N"].neuron
    assert recipe.mlp_widths == (5 * recipe.memory, 2 * recipe.memory, recipe.memory)
    mine = replace(known, runs=replace(known.runs, task="sequence"))
    assert [rival.name for rival in plan(ENWIK8, Limit(2e6), PUBLISHED, mine).rivals] == [
        "simple units, d_m = 3",
        "the paper's recipe, d_m ∝ √N",
    ]


def test_larger_budgets_want_more_and_more_complex_neurons(known):
    plans = [plan(ENWIK8, Limit(value), PUBLISHED, known).network.layers[0] for value in (1e6, 1e7, 1e8)]
    assert [layer.units for layer in plans] == sorted({layer.units for layer in plans})
    assert [layer.neuron.memory for layer in plans] == sorted({layer.neuron.memory for layer in plans})


def test_without_runs_a_plan_allocates_only():
    chosen = plan(NetworkConfig.preset("shd-adding"), Limit(77_000), Wiring(30, 10), None)
    assert chosen.loss is None
    assert chosen.interval is None
    assert chosen.rivals == ()
    low, high = chosen.best_memory
    assert low < chosen.network.layers[0].neuron.memory < high
    worlds = prior_worlds(2000)
    assert np.median(worlds.kappa_e) == pytest.approx(300, rel=0.1)
    assert np.median(worlds.N_r) == pytest.approx(70, rel=0.1)


def test_other_kinds_of_budget(known):
    for limit in (Limit.flops(7.5e6), Limit.file_bytes(4e7), Limit.memory(5e9, batch=8, steps=100)):
        chosen = plan(ENWIK8, limit, PUBLISHED, known)
        assert 0.99 * limit.value < chosen.price <= limit.value
        assert chosen.price == limit.price(chosen.network)
    assert (
        plan(ENWIK8, Limit.flops(7.5e6), PUBLISHED, known).price
        == budget.cost(plan(ENWIK8, Limit.flops(7.5e6), PUBLISHED, known).network).flops
    )


def test_the_recipe_ties_branches_to_memory(known):
    neuron = plan(ENWIK8, Limit(3_516_748), Wiring(None, 15), known).network.layers[0].neuron
    assert neuron.branches == 4 * neuron.memory
    assert neuron.mlp_widths[1] == 2 * neuron.memory


def test_several_hidden_layers_are_refused(known):
    deep = ENWIK8.replace(layers=ENWIK8.layers * 2)
    with pytest.raises(ConfigError, match="one hidden layer, the network has 2"):
        plan(deep, Limit(1e6), PUBLISHED, known)


def test_outputs_that_fix_the_units_leave_nothing_to_plan(known):
    with pytest.raises(ConfigError, match="nothing to plan"):
        plan(NetworkConfig.preset("neuronio"), Limit(1e6), PUBLISHED, known)


def test_a_design_shrinks_what_is_not_known(known):
    before, choices = design(ENWIK8, 1e6, PUBLISHED, known, 3)
    assert choices == design(ENWIK8, Limit(1e6), PUBLISHED, known, 3)[1]
    left = [before, *(choice.sd for choice in choices)]
    assert len(choices) == 3
    assert all(after <= earlier + 1e-12 for earlier, after in pairwise(left))
    assert left[-1] < 0.5 * before
    assert all(budget.parameters(choice.network) <= 1e6 for choice in choices)
    with pytest.raises(TheoryError, match="at least 1 run, got 0"):
        design(ENWIK8, Limit(1e6), PUBLISHED, known, 0)


def test_a_designed_run_tells_more_than_a_repeated_one(known):
    """One budget was seen: other budgets must come first."""
    _, choices = design(ENWIK8, Limit(3_516_748), PUBLISHED, known, 2)
    hidden = [budget.cost(choice.network).hidden for choice in choices]
    assert min(hidden) < 0.5 * float(np.median(known.runs.hidden))


def test_a_design_for_chosen_synapses_keeps_to_them():
    noisy = fit(simulated([1e5, 1e6], [4, 15, 40], noise=0.01), draws=30)
    options = [Wiring(50, 4), Wiring(50, 40)]
    before, choices = design(ENWIK8, Limit.hidden(2e5), options, noisy, 2)
    assert {choice.network.layers[0].neuron.synapses for choice in choices} <= {4, 40}
    assert choices[1].sd < choices[0].sd < before
    one, _ = design(ENWIK8, Limit.hidden(2e5), options[0], noisy, 1)
    assert one != before  # the best of ten times the budget is another


def test_the_least_memory_of_a_fit_is_that_of_its_plans():
    """A budget so small that the simplest units are best."""
    runs, wiring, least = simulated([8e3, 2e4, 5e4], [3], memories=(1, 2, 3, 4, 6, 8)), Wiring(50, 3), {}
    for bound in (1, 3):
        known = fit(runs, draws=50, least_memory=bound)
        least[bound] = plan(ENWIK8, Limit.hidden(8e3), wiring, known).network.layers[0].neuron.memory
    assert least == {1: 2, 3: 3}
    _, choices = design(ENWIK8, Limit.hidden(8e3), wiring, fit(runs, draws=50, least_memory=1), 8)
    assert min(choice.network.layers[0].neuron.memory for choice in choices) < 3


def test_a_budget_of_a_straight_price_takes_few_trials(known):
    calls = 0

    def price(network):
        nonlocal calls
        calls += 1
        return budget.parameters(network)

    limit = Limit(3_516_748, price=price)
    assert len(candidates(ENWIK8, limit, PUBLISHED)) > 50
    assert calls < 6 * 200


def test_crooked_prices_are_searched_exactly():
    def price(network):
        return network.layers[0].units ** 1.7

    network = budget.largest(lambda units: ENWIK8.with_hidden(units=units), 1000.0, "N", price)
    assert network.layers[0].units == int(1000 ** (1 / 1.7))


def test_ends_of_the_fitted_range(known):
    low, high = known.fitted_range
    assert (low, high) == (known.runs.hidden.min() / 1.1, known.runs.hidden.max() * 1.1)
    assert known.outside(1.2 * known.runs.hidden.max(), 750).endswith(
        "(a tenth more or less: what budgets buy they cannot tell)"
    )
    several = fit(simulated([1e5, 1e6], [15]), draws=0)
    assert several.fitted_range == (several.runs.hidden.min() / 3, several.runs.hidden.max() * 3)
    assert several.outside(1e7, 750).endswith("where the fitted runs reach (times and by 3)")
    assert replace(known, worlds=None).predict(100, 100, 100)[0].shape == (1,)


def test_a_rival_s_interval_is_of_its_regret(known):
    """In every world: its loss above the plan's."""
    chosen = plan(ENWIK8, 3_516_748, PUBLISHED, known)
    *alike, recipe = chosen.rivals
    assert recipe.network.layers[0].neuron.connectivity == 840  # of 750: what synapses are worth these runs cannot tell
    assert recipe.interval is None
    assert all(rival.interval is None for rival in plan(ENWIK8, 1e7, PUBLISHED, known).rivals)
    for rival in alike:
        low, high = rival.interval
        assert low <= rival.regret <= high
        losses = known.worlds.loss(*sizes([rival.network, chosen.network]))
        assert (low, high) == pytest.approx(np.quantile(losses[:, 0] - losses[:, 1], [0.025, 0.975]))


def test_a_rival_that_does_not_fit_is_left_out(known):
    least = budget.parameters(ENWIK8.with_hidden(units=1))
    names = [rival.name for rival in plan(ENWIK8, Limit(least - 1), Wiring(50, 2), known).rivals]
    assert names == ["simple units, d_m = 3", "the paper's recipe, d_m ∝ √N"]


def test_the_front_of_a_fit_without_synapses_keeps_the_runs_wiring(known):
    hidden = [1e6, 3e6]
    assert known.front(known.law, hidden).loss == pytest.approx(known.law.optimum(hidden, [750.0] * 2).loss)


@pytest.mark.parametrize(("synapses", "extrapolated"), [([4, 15, 40], False), ([1, 3], True)])
def test_a_best_connectivity_beyond_the_runs_is_said_to_be_extrapolated(synapses, extrapolated):
    known = fit(simulated([1e5, 1e6], synapses), draws=0)
    (words,) = (one for one in answers.fit_remarks(known, {}) if one.startswith("with synapses free"))
    assert words.endswith("is not that of the fitted runs (50 to 150)") == extrapolated
    assert ("; extrapolated: k_c = " in words) == extrapolated


def test_numbers_of_synapses_at_the_edge_of_what_the_runs_tell():
    taught = fit(simulated([1e5, 1e6, 1e7], [4, 15, 40]), draws=0)  # k_c 200 to 2000, by 2: 100 to 4000
    assert [one.synapses for one in wirings(taught, 3000)] == [1]
    with pytest.raises(TheoryError, match="have no number of synapses"):
        wirings(taught, 4001)


def test_what_is_left_of_a_budget_is_explained(known):
    chosen = plan(ENWIK8, Limit.hidden(20_300), PUBLISHED, known)
    first = chosen.network.layers[0]
    more = budget.cost(chosen.network.with_hidden(units=first.units + 1)).hidden
    share = 1 - chosen.price / 20_300
    assert 0.005 < share < 1 / first.units
    assert chosen.unused == f"{share:.1%} is left: one unit more would take {more:,} hidden-layer parameters"


def test_a_design_is_conditioned_as_a_gaussian():
    """The first run leaves var - cov²/(var + sd²) of the target's variance; options are around a wiring."""
    noisy = fit(simulated([1e5, 1e6], [4, 15, 40], noise=0.01), draws=0)
    wiring, limit = Wiring(50, 15), Limit.hidden(2e5)
    worlds = open_worlds(noisy)
    tenfold = [network for _, network in fitting(ENWIK8, Limit.hidden(2e6), [wiring], noisy.least_memory)]
    target = worlds.loss(*sizes(tenfold)).min(1)
    before, (choice,) = design(ENWIK8, limit, wiring, noisy, 1)
    assert before == pytest.approx(target.std())
    losses = worlds.loss(*sizes([choice.network]))[:, 0]
    shared = np.mean((losses - losses.mean()) * (target - target.mean()))
    # a square-root update with one shrink leaves exactly the posterior's variance
    assert choice.sd**2 == pytest.approx(target.var() - shared**2 / (losses.var() + noisy.sd**2))
    assert [one.synapses for one in _around([wiring])] == [5, 15, 30]


def test_memory_that_falls_where_a_tape_is_not_kept():
    """The read-out's tape is too long already: the hidden layer's is not kept from N = 76 on, which leaves room."""
    limit = Limit.memory(4e9, batch=64, steps=1000)
    chosen = budget.largest(lambda n: ENWIK8.with_hidden(units=n), limit.value, "N", limit.price, floor=limit.floor)
    prices = {n: limit.price(ENWIK8.with_hidden(units=n)) for n in (38, 39, 75, 76, 387, 388)}
    assert chosen.layers[0].units == 387
    assert [n for n, price in prices.items() if price <= limit.value] == [38, 76, 387]
    assert limit.floor(chosen) < limit.price(chosen)


def test_a_price_that_does_not_grow_is_refused():
    flat = Limit(1e6, "µs", lambda network: 3.0)
    with pytest.raises(ConfigError, match="µs do not grow with N, so that any number of it fits"):
        plan(ENWIK8, flat, PUBLISHED)
