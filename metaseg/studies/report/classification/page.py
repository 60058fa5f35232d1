"""The page on slice classifiers: its sections, findings and lead."""

from __future__ import annotations

from metaseg.studies.report.blocks import Page, Section
from metaseg.studies.report.classification import run_sections, study_sections
from metaseg.studies.report.classification.inputs import TEST, ClassifierInputs, ClassifierStudy, evaluation_of
from metaseg.studies.report.classification.pictures import SliceAlbum
from metaseg.studies.report.figure_sink import FigureSink
from metaseg.studies.report.numbers import number
from metaseg.studies.report.provenance import provenance_section

PARTS = {"train": "training", "val": "validation", "test": "test", "inherited": "of earlier weights"}


def classification_page(inputs: ClassifierInputs, sink: FigureSink, *, worst: int) -> Page:
    """Build the page.

    Args:
        inputs: What was read.
        sink: Takes the figures.
        worst: Worst mistakes to show; 0 leaves all pictures of slices away.
    """
    study = inputs.study
    sections = _run_sections(inputs, sink, worst) if study is None else _study_sections(inputs, study, sink, worst)
    sections.append(
        provenance_section(inputs.runs, inputs.settings if study else None, PARTS, "entry at its first seed")
    )
    return Page(
        title=f"Report on {inputs.name}",
        lead=_lead(inputs),
        findings=_findings(inputs),
        notes=inputs.notes,
        sections=[section for section in sections if section.blocks],
        synthetic=inputs.synthetic,
    )


def _study_sections(inputs: ClassifierInputs, study: ClassifierStudy, sink: FigureSink, worst: int) -> list[Section]:
    roles, album = study_sections.entry_roles(study), SliceAlbum()
    return [
        study_sections.labels_section(study, roles, sink),
        study_sections.figures_section(study, roles, sink),
        study_sections.paper_section(study),
        study_sections.classes_section(inputs, study, sink),
        study_sections.chosen_section(inputs, study, sink, album, worst > 0),
    ]


def _run_sections(inputs: ClassifierInputs, sink: FigureSink, worst: int) -> list[Section]:
    album = SliceAlbum()
    return [
        run_sections.figures_section(inputs.runs),
        run_sections.curves_section(inputs.runs, sink),
        run_sections.confusion_section(inputs.runs, sink),
        run_sections.mistakes_section(inputs.runs, worst, album),
        run_sections.chosen_section(inputs.runs, album) if worst else Section("chosen", "", []),
    ]


def _findings(inputs: ClassifierInputs) -> list[str]:
    if inputs.study is not None:
        return study_sections.study_findings(inputs.study)
    told = []
    for run in inputs.runs:
        one = evaluation_of(run, TEST)
        if one is not None:
            auc = one.figure("slice", "auc_macro")
            value, low, high = (auc.get(part) for part in ("value", "low", "high"))
            text = f"{run.method}: AUC {number(value)}" if value is not None else f"{run.method}: AUC not known"
            if low is not None and high is not None:
                text += f" (95 % CI over patients {number(low)} to {number(high)})"
            accuracy = one.figure("slice", "accuracy").get("value")
            text += f", accuracy {number(accuracy)}" if accuracy is not None else ""
            counts = f"{one.content.get('slices', '?')} slices of {one.content.get('patients', '?')} patients"
            told.append(f"{text} on the {counts} of its test part.")
    return told


def _lead(inputs: ClassifierInputs) -> str:
    study = inputs.study
    if study is None:
        what = "A slice classifier" if len(inputs.runs) == 1 else f"{len(inputs.runs)} slice classifiers"
        classes = _classes(inputs)
        return f"{what} of {', '.join(classes)}." if classes else f"{what}."
    different = {one.classes for one in study.predictions.values()}
    of_classes = f" of {', '.join(next(iter(different)))}" if len(different) == 1 else ""
    seeds = len(study.work.study.seeds)
    return (
        f"A comparison of {len(study.work.entries)} slice classifiers{of_classes} over {seeds} "
        f"seed{'s' if seeds != 1 else ''}, {len(inputs.runs)} runs; figures are of test patients, by slice."
    )


def _classes(inputs: ClassifierInputs) -> tuple[str, ...]:
    found = [one.classes for run in inputs.runs if (one := evaluation_of(run, TEST))]
    return found[0] if found and len(set(found)) == 1 else ()
