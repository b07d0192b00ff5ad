"""Speed, side by side: every backend, and what else could train the same network, in one interleaved run.

Of the rest of the package only commands use it: `bench`, `doctor --cuda-plan`, plans for a latency.
"""
