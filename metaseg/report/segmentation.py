"""The page on adaptations of segmentation networks: its sections, findings and lead."""

from __future__ import annotations

from collections.abc import Sequence

from metaseg.pictures.overlay import class_colours
from metaseg.report.analysis import Analysis, Group, analyse, make_choices
from metaseg.report.blocks import (
    Block,
    Cell,
    Column,
    Details,
    Heading,
    Key,
    Note,
    Page,
    Pictures,
    Row,
    Section,
    Table,
    number,
)
from metaseg.report.chart_style import FigureSink
from metaseg.report.charts import choices_section, paired_section, retention_section, training_section
from metaseg.report.inputs import Reopener, ReportInputs, ReportRun
from metaseg.report.overlays import Overlays, make_overlays
from metaseg.report.provenance import provenance_section
from metaseg.report.tables import COLUMNS, both_axes_table, findings, paper_table, seconds_table, work_table


def segmentation_page(inputs: ReportInputs, sink: FigureSink, *, worst: int, region: str | None) -> Page:
    """Build the page.

    Args:
        inputs: What was read.
        sink: Takes the metrics.
        worst: Worst cases to show.
        region: Region asked for; None for the one that fits best.

    Raises:
        UsageError: No run was evaluated on that region.
        DataError: The tables are damaged.
    """
    analysis = analyse(inputs, region) if len(inputs.table) else None
    return Page(
        title=f"Report on {inputs.name}",
        lead=_lead(inputs, analysis),
        findings=findings(analysis) if analysis else [],
        notes=inputs.notes,
        sections=_sections(inputs, analysis, sink, worst),
        synthetic=inputs.synthetic,
    )


def _sections(inputs: ReportInputs, analysis: Analysis | None, sink: FigureSink, worst: int) -> list[Section]:
    sections = []
    reopener = Reopener()
    if analysis is not None:
        shown = [_shown_runs(inputs, analysis, group) for group in analysis.main_groups]
        sections += [retention_section(analysis, sink), _tables_section(analysis), paired_section(analysis, sink)]
        sections.append(choices_section([make_choices(run, reopener) for runs in shown for run in runs], sink))
        overlays = [
            one
            for runs in shown
            if runs
            for one in make_overlays(runs, analysis.rows, analysis.region, worst, reopener)
        ]
        sections.append(_overlays_section(overlays, analysis.region))
    trainings = [run for run in inputs.runs if not run.tuned]
    if trainings:
        sections.append(training_section(trainings, sink))
    sections.append(provenance_section(inputs.runs, inputs.settings if inputs.study else None))
    return [section for section in sections if section.blocks]


def _shown_runs(inputs: ReportInputs, analysis: Analysis, group: Group) -> list[ReportRun]:
    """The run of each shown method at the group's first seed that most of them have."""
    runs = [
        run
        for run in inputs.tuned
        if (run.target, run.shots) == (group.target, group.shots) and run.method in analysis.roles.shown
    ]
    if not runs:
        return []
    seeds = [run.seed for run in runs]
    seed = min(seeds, key=lambda one: (-seeds.count(one), one))
    order = analysis.roles.shown.index
    return sorted((run for run in runs if run.seed == seed), key=lambda run: order(run.method))


def _tables_section(analysis: Analysis) -> Section:
    blocks: list[Block] = []
    main = analysis.main_groups
    for group in analysis.groups:
        tables: list[Block] = [work_table(analysis, group)]
        both = both_axes_table(analysis, group)
        if both is not None:
            tables.append(both)
        timed = seconds_table(analysis, group)
        if timed is not None:
            tables.append(timed)
        blocks += [Heading(group.title), *tables] if group in main else [Details(group.title, tables)]
    if analysis.seconds_problem:
        blocks.append(Note(analysis.seconds_problem, "warning"))
    blocks.append(_reading_help())
    if analysis.roles.paper:
        blocks += [Heading("Beside the paper"), paper_table(analysis, main), Note(_PAPER_NOTE, "quiet")]
    return Section("metrics", "All methods" if len(analysis.roles.colours) > 1 else "Metrics", blocks)


_PAPER_NOTE = (
    "Han et al. 2018 pretrained a VGG-16 network on BraTS and adapted it to the metastases of their own hospital, 30 "
    "patients in all. Data, network, patients and budget differ here: what can be compared is the order of the "
    "methods, not the height of their metrics."
)


def _reading_help() -> Details:
    text = (
        "Means over patients and seeds; in small print the 95 % bootstrap interval over both and the sample standard "
        "deviation over patients. p values: Wilcoxon's signed-rank test over patients, each the mean of its seeds, "
        "corrected after Holm for the comparisons with the reference; below them the mean difference to the reference. "
        "Bold p values are below 0.05. A dash: cannot be computed from these runs."
    )
    names = [Row([Cell(column.title), Cell(column.hint)]) for column in COLUMNS]
    table = Table("Columns", [Column("column", number=False), Column("meaning", number=False)], names)
    return Details("How to read these tables", [Note(text), table])


def _overlays_section(overlays: Sequence[Overlays], region: str) -> Section:
    blocks: list[Block] = []
    for one in overlays:
        if one.problem:
            blocks.append(Note(one.problem, "warning"))
        if not one.rows:
            continue
        blocks.append(Heading(f"{one.target}: {one.domain} cases, seed {one.seed}"))
        blocks += [Pictures(f"{row.case}, {row.slice}", row.panels) for row in one.rows]
        blocks.append(_areas_table(one, region))
    keys = {
        name: "#" + bytes(colour).hex() for one in overlays if one.space for name, colour in class_colours(one.space)
    }
    if keys:
        titles = {"ED": "edema (ED)", "NCR": "necrosis (NCR)", "ET": "enhancing tumour (ET)"}
        note = (
            "The worst cases first, by their mean Dice at the end over the methods shown; of each the slice that shows "
            "most. Where letters stand, R is the patient's right. 'False' is predicted tumour of any class "
            "outside the true tumour, summed over all slices of the case."
        )
        blocks = [
            Note(note, "quiet"),
            Key([(titles.get(name, name), colour) for name, colour in keys.items()]),
            *blocks,
        ]
    return Section("cases", "Worst cases, and what was painted falsely", blocks)


def _areas_table(one: Overlays, region: str) -> Table:
    networks = list(dict.fromkeys(row.network for row in one.areas))
    columns = [Column("case", number=False), *(Column(name) for name in networks)]
    rows = []
    for case in dict.fromkeys(row.case for row in one.areas):
        cells = [
            Cell(f"{row.area:,.0f} {row.unit}", f"Dice {number(row.dice, 2)}") for row in one.areas if row.case == case
        ]
        rows.append(Row([Cell(case), *cells]))
    caption = f"{one.target}, {one.domain} cases: false-positive area of the case; below it its Dice {region}"
    return Table(caption, columns, rows)


def _lead(inputs: ReportInputs, analysis: Analysis | None) -> str:
    if analysis is None:
        return "Pretraining of a segmentation network of brain tumours on its source disease."
    methods, groups = len(analysis.roles.colours), analysis.groups
    targets = ", ".join(dict.fromkeys(group.target for group in groups))
    if inputs.study is not None:
        shots = ", ".join(str(shots) for shots in sorted({group.shots for group in groups}))
        seeds = len(set(inputs.table["seed"]))
        return (
            f"A comparison of {methods} ways to adapt a brain-tumour segmentation network to {targets} from few "
            f"labelled patients ({shots}), without forgetting its source disease; {seeds} "
            f"seed{'s' if seeds != 1 else ''}, {len(inputs.runs)} runs."
        )
    what = "Adaptation" if methods == 1 else f"{methods} adaptations"
    return f"{what} of a brain-tumour segmentation network to {targets}: what was gained there, and what was forgotten."
