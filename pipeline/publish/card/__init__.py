"""card.md and card.json: the leaderboard's submission form, filled in."""
