"""Speed, measured as a ratio of two ways to do the same thing in one run."""
