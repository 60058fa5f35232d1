"""The page on slice classifiers: comparisons of them, and single runs."""
