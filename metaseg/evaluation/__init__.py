"""Metrics on whole patients: overlap, surface distance, lesion-wise metrics, forgetting, pictures.

The definitions are written out in ``docs/metrics.md``. Import from the modules: this package imports nothing itself, so
that metrics can be computed without loading torch.
"""
