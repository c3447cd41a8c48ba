"""The leaderboard's archive: the answers as submitted, the logs in the harness's format, the zip."""
