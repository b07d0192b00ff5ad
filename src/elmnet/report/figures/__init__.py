"""Figures, one function each: `figure(…, ax=None)` draws into your axis or a new one, and returns it.

One restrained style; colours that colour-blind readers tell apart (Okabe and Ito) and different line styles beside
them; axes with units. Needs matplotlib: pip install 'elmnet[report]'.
"""

from elmnet.report.figures.curves import (
    axis_curve,
    budget_curves,
    differences,
    gradient_norm,
    learning_curve,
    learning_curves,
    run_curves,
    seed_spread,
)
from elmnet.report.figures.inside import (
    activity_distribution,
    activity_raster,
    branch_drive,
    degree_distribution,
    dimension,
    memory_traces,
    readout_strength,
    spikes_and_classes,
    timescale_distribution,
)
from elmnet.report.figures.style import save, svg, without_a_screen
from elmnet.report.figures.theory import budget_curve, front, mechanisms, of_fit, plan_curve, surface

__all__ = [  # theory, runs and sweeps, inside a network, files
    "budget_curve",
    "front",
    "mechanisms",
    "of_fit",
    "plan_curve",
    "surface",
    "axis_curve",
    "budget_curves",
    "differences",
    "gradient_norm",
    "learning_curve",
    "learning_curves",
    "run_curves",
    "seed_spread",
    "activity_distribution",
    "activity_raster",
    "branch_drive",
    "degree_distribution",
    "dimension",
    "memory_traces",
    "readout_strength",
    "spikes_and_classes",
    "timescale_distribution",
    "save",
    "svg",
    "without_a_screen",
]
