"""The database of a search of hyper-parameters: an SQLite file, or any other that several machines share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from metaseg.errors import UsageError

FILE_NAME = "optuna.db"


def own_storage(folder: Path) -> str:
    """The address of the SQLite file inside a study."""
    return f"sqlite:///{folder / FILE_NAME}"


def open_database(url: str) -> Any:
    """Open a database as Optuna's storage, and make its tables where there are none.

    Args:
        url: An SQLAlchemy URL.

    Raises:
        UsageError: It cannot be reached.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Several workers write one SQLite file: let them wait for each other.
    options = {"connect_args": {"timeout": 120}} if url.startswith("sqlite") else {}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=options)
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise UsageError(
            f"the database of the search cannot be opened: {reason[0] if reason else type(error).__name__}",
            where=url if "@" not in url else url.rpartition("@")[2],
            expected="an SQLAlchemy URL such as sqlite:///search.db or postgresql://user@host/name",
            remedy="check 'storage', and that the database's driver is installed",
        ) from error
