"""The publish stage: samples and metrics in; the leaderboard's archive, the submission form and the report out."""
