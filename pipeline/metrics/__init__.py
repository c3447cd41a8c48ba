"""Numbers in, numbers out: SQuAD's metrics, intervals of a score, tests of two runs."""
