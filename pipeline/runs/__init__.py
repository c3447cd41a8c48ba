"""A run's directory: its manifest, its lock, and the model it used; past runs, and the reproduction of a run."""
