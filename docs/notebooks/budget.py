# %% [markdown]
# # Spend your budget
#
# A parameter budget P can buy many simple units or few complex ones. Which? First from the 14 published runs on
# Enwik8, then from runs of your own.

# %%
from pathlib import Path
from tempfile import mkdtemp

from elmnet import NetworkConfig, budget
from elmnet.report import figures
from elmnet.theory import Limit, Wiring, fit, plan, published

known = fit(published("enwik8"))
figures.budget_curve(known)

# %% [markdown]
# The line is [a model with four constants](../theory.md). It says what limits a network: units that are too
# simple to carry a clean signal, or too few to average out what they share.

# %%
figures.mechanisms(known)

# %% [markdown]
# The planner turns it into a network: every d_m, for each the largest N that fits, and the one with the least
# regret over all the models that the runs allow.

# %%
start, wiring = NetworkConfig.preset("enwik8"), Wiring(branches=50, synapses=15)
chosen = plan(start, Limit(3_516_748), wiring, known)
layer = chosen.network.layers[0]
print(f"N {layer.units}, d_m {layer.neuron.memory}; predicted {chosen.loss:.4f} bits per character")
print(f"near-optimal: d_m {chosen.near_optimal[0]} to {chosen.near_optimal[1]}")
for rival in chosen.rivals:
    print(f"{rival.name}: {rival.regret:+.4f}")
assert budget.parameters(chosen.network) <= 3_516_748

# %% [markdown]
# ## Runs of your own
#
# Three networks of one budget on 200 kB of Python's own sources. They are far too small, and trained far too
# briefly, to say anything about large ones: what counts is the way. `elmnet sweep` does this properly, with
# seeds, on many machines.

# %%
from elmnet.data.text import load_corpus
from elmnet.tasks import open_task
from elmnet.train import loop
from elmnet.train.config import compose
from elmnet.train.progress import Reporter
from elmnet.train.results import read_runs

place = Path(mkdtemp())
(place / "text").write_bytes(load_corpus("python-stdlib").data[:200_000])
settings = ["training.steps=40", "training.eval_every=40", "options.valid_chunks=2", "training.warmup=10"]
for d_m in (3, 6, 12):
    config = compose("enwik8", data=str(place / "text"), settings=settings)
    task = open_task("enwik8", config.options, config.data)
    model = task.fit_model(config.model).with_hidden(memory=d_m)
    config = config.replace(model=budget.spend(model, 60_000, "units"))
    loop.start(config, place / f"d_m-{d_m}", task, reporter=Reporter(quiet=True))

runs, left_out = read_runs(place)
for name, N, P, y in zip(runs.names, runs.N, runs.P, runs.y, strict=True):
    print(f"{name}: N {N:.0f}, P {P:,.0f}, {runs.score} {y:.3f}")
assert len(runs) == 3
assert not left_out

# %% [markdown]
# With five runs or more, `fit(runs)` and `plan(...)` work as above; `elmnet report` draws it all.
