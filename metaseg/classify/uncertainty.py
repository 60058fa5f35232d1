"""The uncertainty list of a committee (Hao et al. 2021): every slice with what every member says of it.

A round that asks a committee leaves its whole list, so that a ranking can be looked at, drawn and used again: the bands
and sizes of the paper are other draws from the ranking of one committee.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from metaseg.classify.rounds import FOLDER, Round, read_rounds
from metaseg.classify.slices import ClassifiedSlices
from metaseg.config.classification import ClassifyActiveConfig
from metaseg.errors import RunError, UsageError
from metaseg.files import FileKind, read_frame, read_json, write_text
from metaseg.metrics.probabilities import require_probabilities
from metaseg.pictures.charts import chart_file, draw_uncertainty
from metaseg.runs.folder import RunFolder, config_changes
from metaseg.runs.session import INPUTS_KIND, INPUTS_NAME, Inputs, InputsContent
from metaseg.sampling import committee_score
from metaseg.sampling.scores import IntArray, pair_divergence, predictive_entropy

KIND = FileKind("the uncertainty list of a committee", "run the active learning that left it again, with --overwrite")
OF_THE_DRAW = ("batch", "budget", "rounds", "drop_top", "drop_bottom", "draw", "fit_on")
"""Settings that shape what is drawn from the first ranking, and not the ranking."""
RANKED_ROUND = 2
"""The round that makes the first ranking: the labels by chance are the first."""


def list_file(run: Path, number: int) -> Path:
    """The uncertainty list that a round chose from."""
    return run / FOLDER / f"uncertainty-{number:03d}.csv"


def uncertainty_list(
    slices: ClassifiedSlices, probabilities: np.ndarray, ranking: IntArray, labelled: np.ndarray, chosen: IntArray
) -> pd.DataFrame:
    """The whole list, a row for each slice in the sequence of the pool.

    Args:
        slices: The slices that were ranked.
        probabilities: What each member says of each, ``(members, slices, classes)``.
        ranking: Their places, the most uncertain first.
        labelled: Whether each had a label before, ``(slices,)``.
        chosen: Places of those that were chosen.

    Returns:
        Columns ``slice``, ``patient``, ``rank`` (from 1), ``score``, ``labelled``, ``chosen`` (0 or 1), for each member
        ``prob_CLASS_MEMBER`` and ``entropy_MEMBER``, and for each two ``divergence_MEMBER_MEMBER``, in nats. The score
        is the sum of the entropies and divergences.
    """
    ranks = np.empty(len(slices), dtype=np.int64)
    ranks[ranking] = np.arange(1, len(slices) + 1)
    columns = {
        "slice": slices.ids,
        "patient": slices.patients,
        "rank": ranks,
        "score": committee_score(probabilities),
        "labelled": np.asarray(labelled, dtype=np.int64),
        "chosen": np.isin(np.arange(len(slices)), chosen).astype(np.int64),
    }
    for member, of_member in enumerate(probabilities, start=1):
        columns |= {f"prob_{name}_{member}": of_member[:, place] for place, name in enumerate(slices.classes)}
        columns[f"entropy_{member}"] = predictive_entropy(of_member)
    for first, second in combinations(range(len(probabilities)), 2):
        pair = np.stack([probabilities[first], probabilities[second]], axis=1)
        columns[f"divergence_{first + 1}_{second + 1}"] = pair_divergence(pair)
    return pd.DataFrame(columns)


def write_list(run: Path, number: int, table: pd.DataFrame, title: str, synthetic: bool) -> None:
    """Write the list of a round, and its picture beside it.

    Args:
        run: The run folder.
        number: The round.
        table: As from :func:`uncertainty_list`.
        title: Heading of the picture.
        synthetic: Whether the data are phantoms; the picture then says so.
    """
    path = list_file(run, number)
    path.parent.mkdir(exist_ok=True)
    write_text(path, table.to_csv(index=False, lineterminator="\n"))
    with chart_file(path.with_suffix(".png"), 9.0, 3.8, title, synthetic, columns=2) as axes:
        draw_uncertainty(axes, table)


def read_list(path: Path) -> pd.DataFrame:
    """The list that :func:`write_list` wrote.

    Raises:
        RunError: It is missing or damaged.
    """
    table = read_frame(path, KIND, ("slice", "patient"), ("rank", "labelled", "chosen"), ("score",))
    if sorted(table["rank"]) != list(range(1, len(table) + 1)):
        raise KIND.refuse("the ranks are not those of a ranking", path)
    return table


def member_probabilities(path: Path, slices: ClassifiedSlices) -> np.ndarray:
    """What each member said of each slice, ``(members, slices, classes)``, to the bit.

    Args:
        path: A list that :func:`write_list` wrote.
        slices: The slices that must be in it, in this sequence.

    Raises:
        RunError: The list is missing, damaged, or of other slices or classes.
    """
    table = read_list(path)
    if table["slice"].tolist() != slices.ids:
        raise KIND.refuse("the list is of other slices", path)
    members = sum(name.startswith("entropy_") for name in table)
    wanted = [[f"prob_{name}_{member + 1}" for name in slices.classes] for member in range(members)]
    try:
        # Through NumPy, which reads what it has written to the same bits.
        found = np.array([table[names].to_numpy(dtype=str).astype(np.float64) for names in wanted])
        require_probabilities(found)
    except (KeyError, ValueError) as error:
        raise KIND.refuse(f"the probabilities cannot be used: {error}", path) from error
    return found


def first_ranking(config: ClassifyActiveConfig) -> ClassifyActiveConfig | None:
    """The settings that shape the first ranking; None for a run whose first ranking no other run can take."""
    shareable = config.acquisition == "committee" and config.fit == "reset" and config.ask is None
    if not shareable or (config.rounds is not None and config.rounds < RANKED_ROUND):
        return None
    defaults = ClassifyActiveConfig()
    return replace(config, **{name: getattr(defaults, name) for name in OF_THE_DRAW})


@dataclass(frozen=True)
class SharedRanking:
    """Another run's labels by chance, its network's metrics with them, and its first ranking.

    Attributes:
        first: The first round of that run.
        path: Its uncertainty list.
    """

    first: Round
    path: Path

    @classmethod
    def open(cls, config: ClassifyActiveConfig, inputs: Inputs) -> SharedRanking | None:
        """What ``--ranking-from`` names; None where the setting is not given.

        Args:
            config: The settings of the run that takes it.
            inputs: What that run reads.

        Raises:
            UsageError: The other run has other settings or data, so that its own ranking would be another.
            RunError: There is no such run, or it has no ranking.
        """
        if config.ranking_from is None:
            return None
        wanted = first_ranking(config)
        if wanted is None:
            raise UsageError(
                "--ranking-from takes the ranking of a committee, for new networks",
                expected="--acquisition committee, --fit reset, two rounds or more, and no --ask",
            )
        run = RunFolder.open(config.ranking_from.expanduser())
        theirs = first_ranking(run.config(ClassifyActiveConfig))
        rounds = read_rounds(run.path)
        path = list_file(run.path, RANKED_ROUND)
        if theirs is None or not rounds or not rounds[0].done or not path.exists():
            raise RunError(
                "the run has no ranking of a committee that could be taken",
                where=run.path,
                expected=f"a run of 'metaseg classify active --acquisition committee' with {path.name}",
                remedy="let it come to its second round, or omit --ranking-from",
            )
        _refuse_another(theirs, wanted, run.path, inputs)
        return cls(replace(rounds[0], seconds=0.0), path)


def _refuse_another(theirs: ClassifyActiveConfig, wanted: ClassifyActiveConfig, run: Path, inputs: Inputs) -> None:
    """Raise if a run's ranking would not be that of the settings; files and cases are compared by content."""
    recorded = read_json(run / INPUTS_NAME, INPUTS_KIND, InputsContent)
    same = [name for name, digest in recorded.files.items() if digest and digest == inputs.files.get(name)]
    theirs = replace(theirs, data=wanted.data, **{name: getattr(wanted, name) for name in same})
    changes = config_changes(theirs, wanted)
    if recorded.cases != inputs.cases:
        changes.append("the cases are others")
    if changes:
        raise UsageError(
            f"the ranking is of a run with other settings: {'; '.join(changes)}",
            where=run,
            expected="the same but for " + ", ".join(f"--{name.replace('_', '-')}" for name in OF_THE_DRAW),
            remedy="give the settings of that run, or omit --ranking-from",
        )
