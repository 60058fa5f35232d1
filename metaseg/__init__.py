"""metaseg: adapt a brain-tumour segmentation network to a new disease from few patients, without forgetting the first.

The verbs of the command line are functions here, under the same names (``classify train`` is ``classify_train``) and
with the same settings::

    import metaseg

    source = metaseg.pretrain(data="BraTS/HGG", epochs=200)
    tuned = metaseg.metatune(from_run=source.run, data="metastases", order="active", shots=5)
    metrics = metaseg.evaluate(run=tuned.run, data="metastases")

Importing the package is cheap: torch is loaded when a verb is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from metaseg.adapt.setup import AdaptationResult
    from metaseg.classify.active import ActiveResult
    from metaseg.classify.evaluate import ClassifyEvaluationResult
    from metaseg.classify.predict import ClassifyPredictionResult
    from metaseg.classify.train import ClassifyTrainResult
    from metaseg.inference.evaluate import EvaluationResult
    from metaseg.inference.predict import PredictionResult
    from metaseg.reports.page import ReportResult
    from metaseg.studies.classifiers.compare import ClassifierComparison
    from metaseg.studies.classifiers.search import ClassifierSearch
    from metaseg.studies.compare import ComparisonResult
    from metaseg.training.pretrain import PretrainResult

__all__ = [
    "__version__",
    "classify_active",
    "classify_compare",
    "classify_evaluate",
    "classify_predict",
    "classify_search",
    "classify_train",
    "compare",
    "evaluate",
    "metatune",
    "naivetune",
    "predict",
    "pretrain",
    "report",
    "tune",
]


def pretrain(**settings: Any) -> PretrainResult:
    """Train a segmentation network on a source disease.

    Args:
        settings: Those of :class:`~metaseg.config.PretrainConfig`, as keywords; ``config=FILE`` reads a YAML file that
            the others override.

    Returns:
        The run folder and its metrics.

    Raises:
        MetasegError: Settings or data cannot be used.
    """
    return _do("pretrain", settings)


def tune(**settings: Any) -> AdaptationResult:
    """Adapt a pretrained network to a new disease by the recommended method.

    Args:
        settings: Those of :class:`~metaseg.config.TuneConfig`, as keywords; see :func:`pretrain`.

    Returns:
        The run folder, and Dice on target and source before and after.

    Raises:
        MetasegError: Settings or data cannot be used.
    """
    return _do("tune", settings)


def metatune(**settings: Any) -> AdaptationResult:
    """Adapt a pretrained network to a new disease by MAML (Han et al. 2018).

    Args:
        settings: Those of :class:`~metaseg.config.MetatuneConfig`, as keywords; see :func:`pretrain`.

    Returns:
        The run folder, and Dice on target and source before and after.

    Raises:
        MetasegError: Settings or data cannot be used.
    """
    return _do("metatune", settings)


def naivetune(**settings: Any) -> AdaptationResult:
    """Adapt a pretrained network by plain fine-tuning, the baseline.

    Args:
        settings: Those of :class:`~metaseg.config.NaivetuneConfig`, as keywords; see :func:`pretrain`.

    Returns:
        The run folder, and Dice on target and source before and after.

    Raises:
        MetasegError: Settings or data cannot be used.
    """
    return _do("naivetune", settings)


def evaluate(**settings: Any) -> EvaluationResult:
    """Compute whole-patient metrics of a network on one or more cohorts.

    Args:
        settings: Those of :class:`~metaseg.config.EvaluateConfig`, as keywords; see :func:`pretrain`.

    Returns:
        Metrics of every case and of the cohorts, and where they were written.

    Raises:
        MetasegError: Settings or data cannot be used.
    """
    return _do("evaluate", settings)


def predict(**settings: Any) -> PredictionResult:
    """Segment cases and write NIfTI files on their own grid.

    Args:
        settings: Those of :class:`~metaseg.config.PredictConfig`, as keywords; see :func:`pretrain`.

    Returns:
        The files that were written.

    Raises:
        MetasegError: Settings or data cannot be used.
    """
    return _do("predict", settings)


def compare(**settings: Any) -> ComparisonResult:
    """Compare methods over orders, shots and seeds at equal budgets.

    Several ``jobs`` are processes, so a script that asks for them needs an ``if __name__ == "__main__":`` around it.

    Args:
        settings: Those of :class:`~metaseg.config.CompareConfig`, as keywords; see :func:`pretrain`.

    Returns:
        The study folder and its tables.

    Raises:
        MetasegError: Settings or data cannot be used, or a cell failed.
    """
    return _do("compare", settings)


def report(**settings: Any) -> ReportResult:
    """Write one self-contained page on runs or studies.

    Args:
        settings: Those of :class:`~metaseg.config.ReportConfig`, as keywords; see :func:`pretrain`.

    Returns:
        The page and the metrics beside it.

    Raises:
        MetasegError: There is no such run or study, or its files are damaged.
    """
    return _do("report", settings)


def classify_train(**settings: Any) -> ClassifyTrainResult:
    """Fit a slice classifier by a transfer strategy.

    Args:
        settings: Those of :class:`~metaseg.config.ClassifyTrainConfig`, as keywords; see :func:`pretrain`.

    Returns:
        The run folder, and metrics of its validation and test parts.

    Raises:
        MetasegError: Settings or data cannot be used.
    """
    return _do("classify-train", settings)


def classify_active(**settings: Any) -> ActiveResult:
    """Choose which slices to label next, round after round, and fit a classifier on them.

    Args:
        settings: Those of :class:`~metaseg.config.ClassifyActiveConfig`, as keywords; see :func:`pretrain`.

    Returns:
        The run folder, the curve of metrics against labels, and with ``ask`` the file that is waited for.

    Raises:
        MetasegError: Settings, data or the annotator's file cannot be used.
    """
    return _do("classify-active", settings)


def classify_evaluate(**settings: Any) -> ClassifyEvaluationResult:
    """Compute metrics of a classifier by slice and by patient.

    Args:
        settings: Those of :class:`~metaseg.config.ClassifyEvaluateConfig`, as keywords; see :func:`pretrain`.

    Returns:
        The metrics, and where they were written.

    Raises:
        MetasegError: Settings, run or data cannot be used.
    """
    return _do("classify-evaluate", settings)


def classify_predict(**settings: Any) -> ClassifyPredictionResult:
    """Give class probabilities of slices, and a verdict on each case.

    Args:
        settings: Those of :class:`~metaseg.config.ClassifyPredictConfig`, as keywords; see :func:`pretrain`.

    Returns:
        Tables of slices and of cases.

    Raises:
        MetasegError: Settings, run or data cannot be used.
    """
    return _do("classify-predict", settings)


def classify_compare(**settings: Any) -> ClassifierComparison:
    """Compare classifiers, transfer strategies or strategies of active learning over seeds.

    Several ``jobs`` are processes, so a script that asks for them needs an ``if __name__ == "__main__":`` around it.

    Args:
        settings: Those of :class:`~metaseg.config.ClassifyCompareConfig`, as keywords; see
            :func:`pretrain`.

    Returns:
        The study folder and its tables.

    Raises:
        MetasegError: Settings or data cannot be used, or a cell failed.
    """
    return _do("classify-compare", settings)


def classify_search(**settings: Any) -> ClassifierSearch:
    """Search hyper-parameters of a classifier on the validation part.

    Args:
        settings: Those of :class:`~metaseg.config.ClassifySearchConfig`, as keywords; see
            :func:`pretrain`.

    Returns:
        The study folder, its trials and the best of them.

    Raises:
        MetasegError: Settings or data cannot be used.
    """
    return _do("classify-search", settings)


def _do(name: str, settings: dict[str, Any]) -> Any:
    from pathlib import Path

    from metaseg.verbs import VERBS

    verb = next(verb for verb in VERBS if verb.name == name)
    # A run's path comes as a Path from an earlier call, where a text is asked for.
    given = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    file = given.pop("config", None)
    return verb.run(verb.settings(None if file is None else Path(file), given))
