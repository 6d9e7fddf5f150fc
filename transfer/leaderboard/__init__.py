"""The leaderboard: tasks, entries, their checks, scores, ranks and pages."""
