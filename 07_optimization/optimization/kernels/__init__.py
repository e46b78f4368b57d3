"""Loops that Numba compiles: one step of decoding on a CPU. Importing these modules imports Numba."""
