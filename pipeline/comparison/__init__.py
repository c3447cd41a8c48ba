"""Comparison of two complete runs over the same questions, the gate and the noise measurement. CPU only."""
