"""The leaderboard server's checks, applied to any archive."""
