"""Figures on whole patients: overlap, surface distance, lesion-wise figures, forgetting, pictures.

The definitions are written out in ``docs/metrics.md``. Import from the modules: this package imports nothing itself, so
that figures can be computed without loading torch.
"""
