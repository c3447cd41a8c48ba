"""A run's directory: its manifest, its lock, the model it used; past runs, and a run made once more."""
