"""``metaseg report``: one self-contained page on runs or a study, and its figures as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from importlib.resources import files
from pathlib import Path

import pandas as pd
from jinja2 import Environment, StrictUndefined

from metaseg.config.studies import ReportConfig
from metaseg.errors import UsageError, recorded_warnings
from metaseg.files import refuse_existing, require_writable, write_text
from metaseg.pictures.charts import chart_settings
from metaseg.reports import provenance
from metaseg.reports.analysis import read_segmentation
from metaseg.reports.blocks import Section
from metaseg.reports.classification import classification_content
from metaseg.reports.classification_inputs import is_classification, read_classification
from metaseg.reports.figures import FigureSink, css_variables
from metaseg.reports.inputs import ReportInputs
from metaseg.reports.segmentation import segmentation_content
from metaseg.results import Result
from metaseg.runs.manifest import NOTICE, SYNTHETIC

PAGE_NAME, FIGURES_NAME = "report.html", "figures"


@dataclass(frozen=True)
class ReportResult(Result):
    """What a report wrote.

    Attributes:
        page: The HTML file.
        figures: PNG and PDF files.
        synthetic: Whether phantoms were among the data.
    """

    page: Path
    figures: tuple[Path, ...]
    synthetic: bool

    def table(self) -> pd.DataFrame:
        """The files."""
        return pd.DataFrame({"file": [str(self.page), *map(str, self.figures)]})


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
    if not paths:
        raise UsageError("nothing to report on", expected="run folders, or the folder of a study")
    classified = [is_classification(path) for path in paths]
    if any(classified) and not all(classified):
        raise UsageError(
            "segmentation and classification in one report",
            where=paths[classified.index(True)],
            expected="runs and studies of one kind",
            remedy="make a report of each",
        )
    inputs: ReportInputs
    if any(classified):
        inputs = classifiers = read_classification(paths, config.region)
        build = partial(classification_content, classifiers, worst=config.worst)
    else:
        inputs = segmentation = read_segmentation(paths)
        build = partial(segmentation_content, segmentation, worst=config.worst, region=config.region)
    file = _page_path(config, inputs.folder)
    figures = file.parent / FIGURES_NAME
    # The report in a run's own folder is drawn again as the run continues.
    refuse_existing([file, *([figures] if config.figures else [])], config.overwrite or config.out is None)
    require_writable(file.parent)
    sink = FigureSink(figures if config.figures else None, inputs.synthetic)
    with chart_settings():
        content = build(sink)
    sections = [*content.sections, provenance.provenance_section(inputs, provenance.PARTS[any(classified)])]
    write_text(file, _render(inputs, content.lead, content.findings, [part for part in sections if part.blocks]))
    print(f"report: {file}" + (f"   ({SYNTHETIC})" if inputs.synthetic else ""))
    if sink.files:
        print(f"  {len(sink.files)} figures in {sink.folder}")
    return ReportResult(file, tuple(sink.files), inputs.synthetic)


def _page_path(config: ReportConfig, folder: Path) -> Path:
    if config.out is None:
        return folder / PAGE_NAME
    out = config.out.expanduser()
    return out if out.suffix.lower() in (".html", ".htm") and not out.is_dir() else out / PAGE_NAME


def _render(inputs: ReportInputs, lead: str, findings: Sequence[str], sections: Sequence[Section]) -> str:
    folder = files(__package__) / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    dark = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {css_variables(True)} }} }}"
    style = f":root {{ color-scheme: light dark; {css_variables(False)} }}\n{dark}\n"
    return template.render(
        title=f"Report on {inputs.name}",
        style=style + (folder / "style.css").read_text(encoding="utf-8"),
        synthetic=inputs.synthetic,
        lead=lead,
        findings=findings,
        notes=inputs.notes,
        sections=sections,
        footer=f"metaseg {metadata.version('metaseg')}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. {NOTICE}",
    )
