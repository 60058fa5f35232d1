"""metaseg: adapt a brain-tumour segmentation network to a new disease from few patients, without forgetting the first.

The verbs of the command line are functions here, under the same names and with the same settings::

    import metaseg

    source = metaseg.pretrain(data="BraTS/HGG", epochs=200)
    tuned = metaseg.metatune(from_run=source.run, data="metastases", order="active", shots=5)
    figures = metaseg.evaluate(run=tuned.run, data="metastases")

Importing the package is cheap: torch is loaded when a verb is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from metaseg.adapt.result import AdaptationResult
    from metaseg.evaluation.evaluate import EvaluationResult
    from metaseg.evaluation.predict import PredictionResult
    from metaseg.studies.compare import ComparisonResult
    from metaseg.studies.report.page import ReportResult
    from metaseg.training.pretrain import PretrainResult

__all__ = ["__version__", "compare", "evaluate", "metatune", "naivetune", "predict", "pretrain", "report", "tune"]


def pretrain(**settings: Any) -> PretrainResult:
    """Train a segmentation network on a source disease.

    Args:
        settings: Those of :class:`metaseg.config.PretrainConfig`, as keywords; ``config=FILE`` reads a YAML file that
            the others override.

    Returns:
        The run folder and its figures.

    Raises:
        MetasegError: Settings or data cannot be used.
    """
    from metaseg.config import PretrainConfig
    from metaseg.training.pretrain import run_pretrain

    return run_pretrain(_settings(PretrainConfig, settings))


def tune(**settings: Any) -> AdaptationResult:
    """Adapt a pretrained network to a new disease by the recommended method.

    Args:
        settings: Those of :class:`metaseg.config.TuneConfig`, as keywords; see :func:`pretrain`.

    Returns:
        The run folder, and Dice on target and source before and after.

    Raises:
        MetasegError: Settings or data cannot be used.
    """
    from metaseg.adapt.naivetune import run_naivetune
    from metaseg.config import TuneConfig

    return run_naivetune(_settings(TuneConfig, settings))


def metatune(**settings: Any) -> AdaptationResult:
    """Adapt a pretrained network to a new disease by MAML (Han et al. 2018).

    Args:
        settings: Those of :class:`metaseg.config.MetatuneConfig`, as keywords; see :func:`pretrain`.

    Returns:
        The run folder, and Dice on target and source before and after.

    Raises:
        MetasegError: Settings or data cannot be used.
    """
    from metaseg.adapt.metatune import run_metatune
    from metaseg.config import MetatuneConfig

    return run_metatune(_settings(MetatuneConfig, settings))


def naivetune(**settings: Any) -> AdaptationResult:
    """Adapt a pretrained network by plain fine-tuning, the baseline.

    Args:
        settings: Those of :class:`metaseg.config.NaivetuneConfig`, as keywords; see :func:`pretrain`.

    Returns:
        The run folder, and Dice on target and source before and after.

    Raises:
        MetasegError: Settings or data cannot be used.
    """
    from metaseg.adapt.naivetune import run_naivetune
    from metaseg.config import NaivetuneConfig

    return run_naivetune(_settings(NaivetuneConfig, settings))


def evaluate(**settings: Any) -> EvaluationResult:
    """Compute whole-patient figures of a network on one or more cohorts.

    Args:
        settings: Those of :class:`metaseg.config.EvaluateConfig`, as keywords; see :func:`pretrain`.

    Returns:
        Figures of every case and of the cohorts, and where they were written.

    Raises:
        MetasegError: Settings or data cannot be used.
    """
    from metaseg.config import EvaluateConfig
    from metaseg.evaluation.evaluate import run_evaluate

    return run_evaluate(_settings(EvaluateConfig, settings))


def predict(**settings: Any) -> PredictionResult:
    """Segment cases and write NIfTI files on their own grid.

    Args:
        settings: Those of :class:`metaseg.config.PredictConfig`, as keywords; see :func:`pretrain`.

    Returns:
        The files that were written.

    Raises:
        MetasegError: Settings or data cannot be used.
    """
    from metaseg.config import PredictConfig
    from metaseg.evaluation.predict import run_predict

    return run_predict(_settings(PredictConfig, settings))


def compare(**settings: Any) -> ComparisonResult:
    """Compare methods over orders, shots and seeds at equal budgets.

    Several ``jobs`` are processes, so a script that asks for them needs an ``if __name__ == "__main__":`` around it.

    Args:
        settings: Those of :class:`metaseg.config_studies.CompareConfig`, as keywords; see :func:`pretrain`.

    Returns:
        The study folder and its tables.

    Raises:
        MetasegError: Settings or data cannot be used, or a cell failed.
    """
    from pathlib import Path

    from metaseg.config_studies import CompareConfig, named_after
    from metaseg.studies.compare import run_compare

    file = settings.get("config")
    return run_compare(named_after(_settings(CompareConfig, settings), None if file is None else Path(file)))


def report(**settings: Any) -> ReportResult:
    """Write one self-contained page on runs or studies.

    Args:
        settings: Those of :class:`metaseg.config_studies.ReportConfig`, as keywords; see :func:`pretrain`.

    Returns:
        The page and the figures beside it.

    Raises:
        MetasegError: There is no such run or study, or its files are damaged.
    """
    from metaseg.config_studies import ReportConfig
    from metaseg.studies.report.page import run_report

    return run_report(_settings(ReportConfig, settings))


def _settings(kind: type, settings: dict[str, Any]) -> Any:
    from pathlib import Path

    from metaseg.config_io import load_config

    # A run's path comes as a Path from an earlier call, where a text is asked for.
    given = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    file = given.pop("config", None)
    return load_config(kind, Path(file) if file is not None else None, given)
