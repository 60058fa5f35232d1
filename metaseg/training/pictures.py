"""Pictures that a run shows while it goes on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from metaseg.cases.labels import WHOLE_LESION, LabelSpace
from metaseg.inference.case_pictures import shown_modality
from metaseg.inference.predictor import Predictor
from metaseg.pictures.contact_sheet import contact_sheet
from metaseg.runs.logs import EventLog
from metaseg.store.stored_case import StoredCase, to_space


def log_overlay(
    log: EventLog,
    domain: str,
    model: nn.Module,
    case: StoredCase,
    modalities: Sequence[str],
    space: LabelSpace,
    step: int,
    slices: int = 3,
) -> None:
    """Put label and prediction of a case's fullest slices into TensorBoard.

    Args:
        log: Where to.
        domain: ``val``, ``target`` or ``source``; part of the picture's name.
        model: The network.
        case: A labelled case.
        modalities: The network's input modalities.
        space: The network's label space.
        step: The step it belongs to.
        slices: How many slices.
    """
    chosen = np.sort(np.argsort(case.areas()[:, 1:].sum(axis=1), kind="stable")[-slices:])
    image = case.images(chosen, (shown_modality(modalities),))[:, 0]
    shown = space if space == case.space else WHOLE_LESION
    predicted = Predictor(model, tuple(modalities), space).classes(case, chosen)
    sheet = contact_sheet(
        image,
        to_space(case.labels(chosen), case.space, shown, case.id),
        to_space(predicted, space, shown, case.id),
        shown,
        title=f"{case.id}, step {step}",
        synthetic=case.info.synthetic,
        slices=range(len(chosen)),
        planar=case.info.geometry.planar,
    )
    log.image(f"overlay/{domain}", np.asarray(sheet), step)
