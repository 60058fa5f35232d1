"""Metrics of whole patients and of classifiers, as pure functions on arrays and tables.

The definitions are written out in ``docs/metrics.md``. Import from the modules: this package imports nothing itself.
"""
