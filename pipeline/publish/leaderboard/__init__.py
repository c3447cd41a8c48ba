"""The leaderboard's archive: the submitted answers, the logs in the harness's format, and the zip."""
