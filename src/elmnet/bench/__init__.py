"""Speed, side by side: every backend, and what else could train the same network, in one interleaved run.

Nothing here is imported by the rest of the package but by the command `elmnet bench`.
"""
