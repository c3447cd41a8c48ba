"""Pure functions on numbers: SQuAD metrics, confidence intervals, paired tests, weights and names of metrics."""
