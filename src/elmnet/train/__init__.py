"""Training: loop, optimiser and schedules, regularisers, checkpoints, metrics."""
