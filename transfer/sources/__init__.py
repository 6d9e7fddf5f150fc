"""Where datasets, lists and weights come from, and how to fetch them."""
