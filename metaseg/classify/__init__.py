"""Slice classifiers: transfer strategies, active learning, metrics and predictions."""
