# %% [markdown]
# # An expressive neuron from the inside
#
# What does one Expressive Leaky Memory neuron do with a spike, and what do many of them do once they have
# learnt something? Everything here is computed on the spot, in seconds, on a processor.

# %%
import numpy as np
import torch
from matplotlib import pyplot as plt
from scipy.special import softmax

from elmnet import ELMNetwork, LayerConfig, NetworkConfig, NeuronConfig
from elmnet.report import figures, inside

torch.manual_seed(0)

# %% [markdown]
# ## One spike
#
# A neuron has memory units, each with a timescale τ of its own. Untrained, with random weights, it answers a
# single input spike at step 10 with a change of each memory unit, which then fades: fast for small τ, slowly
# for large.

# %%
neuron = NeuronConfig(memory=6, branches=4, synapses=4, tau_min=1.0, tau_max=100.0, input_scale=4.0)
one = NetworkConfig(inputs=8, outputs=1, layers=(LayerConfig(units=1, neuron=neuron, recurrent_connect=0.0),))
network = ELMNetwork(one, seed=1).eval()

silence, spike = torch.zeros(1, 120, 8), torch.zeros(1, 120, 8)
spike[:, 10] = 1.0
answer = inside.record(network, spike).memory - inside.record(network, silence).memory  # (steps, 1 unit, 6)
figures.memory_traces(answer[:, 0], inside.timescales(network)[0], name="one untrained neuron")

# %% [markdown]
# How much of each unit's largest answer is left after 60 steps? The slowest keeps most:

# %%
left = np.abs(answer[70, 0]) / np.abs(answer[:, 0]).max(0)
print("share of the peak left after 60 steps, by τ:", np.round(left, 3))
assert left.argmax() == 5

# %% [markdown]
# ## Learning to wait
#
# Now 16 such neurons, and a task that needs memory: one of two channels fires at the beginning, then noise
# follows for 40 steps, and at the end the network is to say which it was. The data are synthetic.


# %%
def trials(count, steps=40):
    """Noise on all channels; at the first three steps, channel 0 or 1 fires for certain and the other is silent."""
    x, y = (torch.rand(count, steps, 8) < 0.1).float(), torch.randint(2, (count,))
    x[:, :3, :2] = torch.nn.functional.one_hot(y, 2).float()[:, None]
    return x, y


neuron = neuron.replace(branches=8, tau_highpass=None)
many = NetworkConfig(inputs=8, outputs=2, layers=(LayerConfig(units=16, neuron=neuron, recurrent_connect=0.3),))
network = ELMNetwork(many, seed=0)
optimiser, losses = torch.optim.Adam(network.parameters(), lr=1e-2), []
before = inside.record(network, trials(16)[0])
for _ in range(80):
    x, y = trials(32)
    out, _ = network(x)
    loss = torch.nn.functional.cross_entropy(out[:, -1], y)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())
print(
    f"cross entropy: {np.mean(losses[:10]):.3f} nats at first, {np.mean(losses[-10:]):.3f} at the end; chance is 0.693"
)
assert np.mean(losses[-10:]) < 0.5

# %% [markdown]
# ## Looking inside
#
# `elmnet.report.inside` measures, `elmnet.report.figures` draws; `elmnet report RUN` does both for a run.

# %%
x, y = trials(16)
seen = inside.record(network, x)
figures.activity_raster(seen.activity[0])

# %%
cells = [int(seen.activity[0].var(0).argmax())]
figures.memory_traces(seen.memory[:, cells[0]], inside.timescales(network)[cells[0]], name=f"unit {cells[0]}")

# %%
figures.spikes_and_classes(x[0].numpy() > 0, softmax(seen.outputs[0], axis=-1), int(y[0]))

# %% [markdown]
# The effective dimension of activity (participation ratio) says how many independent things the units do.

# %%
for name, what in (("untrained", before), ("trained", seen)):
    print(f"{name}: {inside.participation_ratio(what.activity):.1f} of 16 dimensions")
plt.close("all")
