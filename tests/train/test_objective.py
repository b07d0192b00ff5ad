import pytest
import torch

from elmnet.train import objective
from elmnet.train.config import TrainConfig

CONFIG = TrainConfig(
    steps=1000, learning_rate=0.1, warmup=100, reset_from=1.0, reset_to=0.01, reset_steps=400, mlp_penalty=0.5
)


def test_learning_rate_warms_up_and_falls_to_zero():
    rates = [objective.learning_rate(step, CONFIG) for step in range(1001)]
    assert rates[0] == pytest.approx(0.001)
    assert rates[99] == rates[100] == pytest.approx(0.1)
    assert rates[550] == pytest.approx(0.05)
    assert rates[1000] == pytest.approx(0.0, abs=1e-12)
    assert rates[100:] == sorted(rates[100:], reverse=True)


def test_resets_are_certain_at_first_and_rare_later():
    assert objective.reset_probability(0, CONFIG) == 1.0
    assert objective.reset_probability(200, CONFIG) == pytest.approx(0.505)
    assert objective.reset_probability(400, CONFIG) == objective.reset_probability(10**6, CONFIG) == 0.01
    late = sum(objective.resets(step, CONFIG, seed=0) for step in range(1000, 11_000))
    assert 60 < late < 140
    assert objective.resets(0, CONFIG, seed=0)
    assert [objective.resets(s, CONFIG, 1) for s in range(300)] == [objective.resets(s, CONFIG, 1) for s in range(300)]


def test_mlp_magnitude_by_hand():
    mlp = torch.tensor([[[[1.0, -3.0]], [[2.0, 2.0]]], [[[0.0, 0.0]], [[0.0, 4.0]]]])  # (B 2, T 2, N 1, d_m 2)
    assert objective.mlp_magnitude(mlp) == pytest.approx((2.0**2 + 1.0**2) / 2)


def test_population_activity_pushes_silent_spikes_half():
    activity = torch.tensor([[[0.0, 1.0, -1.0, 2.0]]], requires_grad=True)
    value = objective.population_activity(activity)
    assert value.item() == pytest.approx(0.75)
    value.backward()
    assert activity.grad.flatten().tolist() == [0.125, 0.25, 0.0, 0.25]


def test_penalties_do_not_count_padding():
    """A sequence's share does not depend on how long the others of its batch are."""
    mlp, activity = torch.randn(3, 10, 4, 2), torch.randn(3, 10, 4)
    padded = [torch.cat([signal, torch.zeros(3, 90, *signal.shape[2:])], 1) for signal in (mlp, activity)]
    lengths = torch.tensor([10, 10, 10])
    for penalty, alone, beside in zip(
        (objective.mlp_magnitude, objective.population_activity), (mlp, activity), padded, strict=True
    ):
        assert penalty(beside, lengths) == pytest.approx(penalty(alone).item(), rel=1e-5)
        assert penalty(alone, lengths) == pytest.approx(penalty(alone).item(), rel=1e-5)
        assert penalty(beside) < penalty(alone)
    short = torch.cat([activity[:1, :5], torch.zeros(1, 5, 4)], 1)
    both = objective.population_activity(torch.cat([short, activity[1:2]]), torch.tensor([5, 10]))
    each = [objective.population_activity(part).item() for part in (activity[:1, :5], activity[1:2])]
    assert both == pytest.approx(sum(each) / 2, rel=1e-5)


def test_only_needed_signals_are_monitored():
    assert objective.monitored(CONFIG) == ("mlp",)
    assert objective.monitored(CONFIG.replace(mlp_penalty=0)) == ()
    assert objective.penalty({}, CONFIG.replace(mlp_penalty=0)) == 0
