"""Pages and lists over many runs: the list of runs, the board, and what is removed of old ones."""
