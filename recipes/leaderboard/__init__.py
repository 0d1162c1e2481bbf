"""The leaderboard: every mechanism of memkit on every probe, and the claims of three papers as comparisons of cells."""
