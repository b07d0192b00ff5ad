"""Sweeps: many runs described in a few lines, run anywhere, killed at any moment, collected into one table."""
