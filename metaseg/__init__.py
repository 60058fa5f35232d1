"""metaseg: adapt a brain-tumour segmentation network to a new disease from few patients, without forgetting the first.

The verbs of the command line are functions here, under the same names (``classify train`` is ``classify_train``) and
with the same settings, and :func:`load` gives a trained network::

    import metaseg

    source = metaseg.pretrain("BraTS/HGG", epochs=200)
    tuned = metaseg.metatune("metastases", from_run=source, order="active", shots=5)
    metrics = metaseg.evaluate(tuned, data="metastases")
    labels = metaseg.load(tuned).predict(array)

Importing the package is cheap: torch is loaded when a verb is called. Signatures stand in ``__init__.pyi``, which
``scripts/make_stub.py`` makes of the settings.
"""

from __future__ import annotations

from typing import Any

from metaseg.version import __version__

__all__ = [
    "Case",
    "MetasegError",
    "Predictor",
    "__version__",
    "classify_active",
    "classify_compare",
    "classify_evaluate",
    "classify_predict",
    "classify_search",
    "classify_train",
    "compare",
    "evaluate",
    "load",
    "metatune",
    "naivetune",
    "paper",
    "predict",
    "pretrain",
    "report",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'metaseg' has no attribute '{name}'")
    from metaseg import api

    globals()[name] = found = api.public(name)
    return found


def __dir__() -> list[str]:
    return [*globals(), *__all__]
