"""Speed, side by side: every backend, and what else could train the same network, in one interleaved run.

Also plans of the cuda backend by trial, and its kernels compiled where there is no GPU. Only commands use it.
"""
