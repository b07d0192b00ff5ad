"""How to spend a parameter budget: the SNR-redundancy model, its fits to runs, and the planner. No torch.

    law = fit(published("enwik8", "valid_bpc"))
    best = plan(NetworkConfig.preset("enwik8"), 3_516_748, Wiring(branches=50, synapses=15), law)
    best.network.layers[0].units, best.near_optimal

The model is this project's own (docs/theory.md). The problem, the two mechanisms it formalises, the recipe d_m ∝ √N and
the published runs are from Spieler, Martius, Levina (arXiv:2605.12049).
"""

from elmnet.theory.fit import Fit, fit
from elmnet.theory.limits import Limit, Wiring
from elmnet.theory.model import SNRR, Optimum
from elmnet.theory.next_runs import design
from elmnet.theory.plain import fit_plain, fit_unit
from elmnet.theory.planner import Plan, Prediction, plan, predict, wirings
from elmnet.theory.rows import PUBLISHED, published, runs_of_rows
from elmnet.theory.runs import Runs, table
from elmnet.theory.unit import complexity_of, memory_of

__all__ = [
    "SNRR",
    "Optimum",
    "complexity_of",
    "memory_of",
    "Runs",
    "PUBLISHED",
    "published",
    "table",
    "runs_of_rows",
    "Fit",
    "fit",
    "fit_plain",
    "fit_unit",
    "Limit",
    "Wiring",
    "wirings",
    "Plan",
    "plan",
    "Prediction",
    "predict",
    "design",
]
