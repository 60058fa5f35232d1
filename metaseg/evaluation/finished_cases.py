"""What an evaluation has finished, case by case on the disk, so that one that was cut off can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from metaseg.config import EvaluateConfig
from metaseg.config_io import asked_for
from metaseg.errors import UsageError
from metaseg.models.processes import is_first, several
from metaseg.written_files import writing

PATTERN = "unfinished.*.jsonl"
_NEEDED = {"network", "case", "target", "dice"}


@dataclass(frozen=True)
class FinishedCases:
    """The rows of finished cases, in one file for each process until the figures are written.

    Attributes:
        folder: The evaluation's.
        question: Digest of networks, data and settings.
        rank: Of this process.
        rows: Rows of the cases that were finished before, by case.
    """

    folder: Path
    question: str
    rank: int
    rows: dict[str, list[dict[str, Any]]]

    @classmethod
    def begin(cls, folder: Path, question: Mapping[str, Any], config: EvaluateConfig, fabric: Fabric) -> FinishedCases:
        """Read what is there, or begin.

        Args:
            folder: The evaluation's.
            question: What decides the figures besides settings: networks, data, options.
            config: The settings.
            fabric: Of this process.

        Raises:
            UsageError: An evaluation was cut off there, and neither ``resume`` nor ``overwrite`` is given; or it is
                another one and ``overwrite`` is not given.
        """
        content = json.dumps([dict(question), asked_for(config)], sort_keys=True)
        digest = blake2b(content.encode(), digest_size=16).hexdigest()
        found = [] if config.overwrite else list(_lines(folder))
        if several(fabric):
            # Nobody writes before all have read.
            fabric.barrier()
        if found and not config.resume:
            raise UsageError(
                f"an evaluation was cut off here, with {len(found)} cases done",
                where=folder,
                remedy="go on with --resume, or begin anew with --overwrite",
            )
        if any(line["question"] != digest for line in found):
            raise UsageError(
                "the evaluation that was cut off here is another one (other networks, data or settings)",
                where=folder,
                expected="the same networks, data and settings",
                remedy="name another folder with --out, or begin anew with --overwrite",
            )
        finished = cls(folder, digest, fabric.global_rank, {line["case"]: line["rows"] for line in found})
        if config.overwrite and is_first(fabric):
            finished.remove()
        if several(fabric):
            fabric.barrier()
        return finished

    def add(self, case: str, rows: list[dict[str, Any]]) -> None:
        """Keep the rows of a case; they are on the disk when the call returns."""
        line = json.dumps({"question": self.question, "case": case, "rows": rows}, default=lambda value: value.item())
        path = self.folder / PATTERN.replace("*", str(self.rank))
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as stream:
                # What a kill has left of an earlier line ends here.
                stream.write(f"\n{line}\n")
                stream.flush()
                os.fsync(stream.fileno())

    def remove(self) -> None:
        """Delete all files: the figures are written, or begun anew."""
        for path in self.folder.glob(PATTERN):
            with writing(path):
                path.unlink(missing_ok=True)


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    """Whole lines; one that a kill or a power cut has damaged is left out, so that its case is evaluated again."""
    for path in sorted(folder.glob(PATTERN)):
        for text in path.read_bytes().split(b"\n"):
            try:
                line = json.loads(text)
                rows = line["rows"]
                whole = isinstance(line["question"], str) and isinstance(line["case"], str) and rows
                whole = whole and all(row.keys() >= _NEEDED and row["case"] == line["case"] for row in rows)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                continue
            if whole:
                yield line
