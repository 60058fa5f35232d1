"""Slice classifiers: transfer strategies, active learning, figures and predictions."""
