"""How a notebook shows what a verb returns: a table, and where the files are."""

from __future__ import annotations

import html
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 60


class Result:
    """A result that a notebook shows as a table; a dataclass that says which by :meth:`table`."""

    def table(self) -> pd.DataFrame:
        """What is worth seeing at a glance."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        place = next((value for value in values.values() if isinstance(value, Path)), None)
        mark = " (SYNTHETIC phantoms, not patients)" if values.get("synthetic") else ""
        heading = f"{type(self).__name__}: {place}{mark}"
        body = self.table().to_html(index=False, na_rep="", float_format="{:.3f}".format, border=0, max_rows=MOST_ROWS)
        return f"<p>{html.escape(heading)}</p>\n{body}"


def metrics_table(**columns: Any) -> pd.DataFrame:
    """Metrics by name, a column for each of several sets of them, such as ``before`` and ``after``."""
    import pandas as pd

    return pd.DataFrame(columns).rename_axis("metric").reset_index()
