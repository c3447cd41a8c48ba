"""Sample and Metric in, what leaves the pipeline out: the card of a submission."""
