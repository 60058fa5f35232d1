"""``metaseg report``: one self-contained page on runs or a study, and its figures as files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from metaseg.config.studies import ReportConfig
from metaseg.errors import UsageError, recorded_warnings
from metaseg.files import refuse_existing, require_writable, write_text
from metaseg.inference.evaluation_cases import NOTICE, SYNTHETIC
from metaseg.report.blocks import Page
from metaseg.report.chart_style import FigureSink, chart_settings, css_variables
from metaseg.report.classification.inputs import is_classification, read_classifier_inputs
from metaseg.report.classification.sections import classification_page
from metaseg.report.inputs import read_inputs
from metaseg.report.segmentation import segmentation_page

PAGE_NAME, FIGURES_NAME = "report.html", "figures"


@dataclass(frozen=True)
class ReportResult:
    """What a report wrote.

    Attributes:
        page: The HTML file.
        figures: PNG and PDF files.
        synthetic: Whether phantoms were among the data.
    """

    page: Path
    figures: tuple[Path, ...]
    synthetic: bool


@recorded_warnings()
def run_report(config: ReportConfig) -> ReportResult:
    """Write the page and, if asked for, the figures in ``figures/`` beside it.

    An earlier report is replaced in the folder of a run or study, and elsewhere with ``overwrite``.

    Args:
        config: All settings; see :class:`~metaseg.config.studies.ReportConfig`.

    Raises:
        UsageError: Nothing is named, a study with something else, segmentation with classification, or a region that
            was not evaluated.
        RunError: A folder is neither a run nor a study, is damaged, holds no results yet, or cannot be written.
        DataError: A table of the study is damaged.
    """
    paths = [Path(path).expanduser() for path in config.runs]
    classified = [is_classification(path) for path in paths]
    if any(classified) and not all(classified):
        raise UsageError(
            "segmentation and classification in one report",
            where=paths[classified.index(True)],
            expected="runs and studies of one kind",
            remedy="make a report of each",
        )
    if any(classified):
        found = read_classifier_inputs(paths, config.region)
        build = partial(classification_page, found, worst=config.worst)
        return _write(config, found.folder, found.synthetic, build)
    inputs = read_inputs(paths)
    build = partial(segmentation_page, inputs, worst=config.worst, region=config.region)
    return _write(config, inputs.folder, inputs.synthetic, build)


def _write(config: ReportConfig, folder: Path, synthetic: bool, build: Callable[[FigureSink], Page]) -> ReportResult:
    file = _page_path(config, folder)
    figures = file.parent / FIGURES_NAME
    # The report in a run's own folder is drawn again as the run goes on.
    refuse_existing([file, *([figures] if config.figures else [])], config.overwrite or config.out is None)
    require_writable(file.parent)
    sink = FigureSink(figures if config.figures else None, synthetic)
    with chart_settings():
        page = build(sink)
    write_text(file, _render(page))
    print(f"report: {file}" + (f"   ({SYNTHETIC})" if page.synthetic else ""))
    if sink.files:
        print(f"  {len(sink.files)} figures in {sink.folder}")
    return ReportResult(file, tuple(sink.files), page.synthetic)


def _page_path(config: ReportConfig, folder: Path) -> Path:
    if config.out is None:
        return folder / PAGE_NAME
    out = config.out.expanduser()
    return out if out.suffix.lower() in (".html", ".htm") and not out.is_dir() else out / PAGE_NAME


def _render(page: Page) -> str:
    folder = files(__package__) / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    dark = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {css_variables(True)} }} }}"
    style = f":root {{ color-scheme: light dark; {css_variables(False)} }}\n{dark}\n"
    return template.render(
        title=page.title,
        style=style + (folder / "style.css").read_text(encoding="utf-8"),
        synthetic=page.synthetic,
        lead=page.lead,
        findings=page.findings,
        notes=page.notes,
        sections=page.sections,
        footer=f"metaseg {metadata.version('metaseg')}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. {NOTICE}",
    )
