"""Comparisons and searches of slice classifiers."""
