"""The publish room: samples in, what leaves the pipeline out: the leaderboard's archive, and its check."""
