"""The run folder: everything that one run of a verb writes (``docs/run-folder.md`` describes the files).

A lock keeps two processes from writing one run. :func:`list_runs` finds the runs under a folder.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

from metaseg.config.fields import command_words, config_verb
from metaseg.config.io import Config, describe_fields, dump_config, load_config, plain_value, present_names
from metaseg.config.options import RunOptions
from metaseg.errors import ExistsError, MetasegError, RunError, UsageError, WriteError, nearest
from metaseg.files import (
    FileKind,
    read_json,
    read_text,
    read_yaml,
    remove_unfinished,
    require_writable,
    write_json,
    writing,
)
from metaseg.registry import is_installed
from metaseg.runs.manifest import read_manifest
from metaseg.runs.state import STATE_NAME, RunState

CONFIG_NAME, LOCK_NAME = "config.yaml", ".lock"
SETTINGS_KIND = FileKind(
    "the settings of a metaseg run, as it wrote them",
    "copy the file again, or start the run again with --overwrite and its options",
)
RUNS = Path("runs")
"""Where runs without a name go."""

C = TypeVar("C", bound=Config)


class RunFolder:
    """A run on disk; made by :meth:`create` to be written, or by :meth:`open` to be read.

    As a context manager it keeps the run's status true: ``finished`` when the block ends, ``stopped`` after Ctrl-C,
    ``failed`` with the reason after an error.

    Attributes:
        path: The folder.
        state: Done steps, status and best metrics.
    """

    def __init__(self, path: Path, state: RunState, lock: RunLock | None) -> None:
        self.path = path
        self.state = state
        self._lock = lock

    @classmethod
    def create(cls, config: RunOptions) -> RunFolder:
        """Make a run folder and lock it, or take one up again.

        Args:
            config: The verb's settings, written as ``config.yaml``. ``out`` is the folder, None for a new
                ``runs/VERB-YYYYmmdd-HHMMSS``; with ``overwrite`` the run that it holds is deleted, with ``resume``
                it is continued. A finished run is taken as well; see :attr:`finished`.

        Returns:
            The folder, locked until :meth:`close`.

        Raises:
            ExistsError: The folder holds a run and neither flag is given, or holds something else.
            RunError: There is nothing to resume, or another process writes the run.
            UsageError: The flags contradict each other, or the settings differ from those of the run to resume.
        """
        cls.check(config)
        if config.out is None:
            return cls._start(_new_folder(config_verb(type(config))), config)
        if config.resume:
            return cls._continue(config.out)
        with writing(config.out):
            config.out.mkdir(parents=True, exist_ok=True)
        return cls._start(config.out, config)

    @classmethod
    def check(cls, config: RunOptions) -> RunFolder | None:
        """Find out whether :meth:`create` would take these settings, without writing anything.

        A verb asks before it prepares its data, and creates the folder after: data that cannot be used then leave no
        folder behind, and ``--overwrite`` deletes nothing for their sake.

        Returns:
            The run to resume if it is finished already, so that nothing is left to do; None otherwise.

        Raises:
            RunError: As for :meth:`create`, also the others.
        """
        if config.overwrite and config.resume:
            raise UsageError("--overwrite and --resume contradict each other", remedy="give one of the two")
        if config.resume:
            if config.out is None:
                raise UsageError("--resume needs the run to continue", remedy="name its folder with --out")
            _check_resumable(config.out, config)
            run = cls.open(config.out)
            if run.finished:
                return run
        elif config.out is not None:
            _check_fresh(config.out, config)
        require_writable(config.out or RUNS)
        return None

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open a run to read it.

        Raises:
            RunError: There is no run in ``path``, or its state is damaged.
        """
        if not is_run(path):
            raise RunError(
                "this is no metaseg run" if path.exists() else "there is no such run",
                where=path,
                expected=f"a run folder with {STATE_NAME} and {CONFIG_NAME}",
                remedy=like_named(path) or "'metaseg runs' lists the runs there are",
            )
        return cls(path, RunState.open(path / STATE_NAME), lock=None)

    @classmethod
    def _start(cls, path: Path, config: RunOptions) -> RunFolder:
        lock, verb = RunLock(path), config_verb(type(config))
        # How a run was begun is not what it is: --resume reads this file.
        settings = replace(config, overwrite=False, resume=False)
        # A state that no settings belong to comes first: wherever a deletion is cut off, there is a run that can be
        # replaced, that does not pass for finished, and that cannot be gone on with.
        RunState.create(path / STATE_NAME, verb, "none yet")
        for entry in path.iterdir():
            if entry.name not in (LOCK_NAME, STATE_NAME):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        kind: type[Config] = type(config)
        values = {field.option: plain_value(getattr(settings, field.name)) for field in describe_fields(kind)}
        state = RunState.create(path / STATE_NAME, verb, _settings_digest(values, kind))
        dump_config(settings, path / CONFIG_NAME)
        return cls(path, state, lock)

    @classmethod
    def _continue(cls, path: Path) -> RunFolder:
        lock = RunLock(path)
        try:
            state = RunState.open(path / STATE_NAME)
            if state.status != "finished":
                remove_unfinished(path)
                state.set_status("running")
        except BaseException:
            lock.release()
            raise
        return cls(path, state, lock)

    @property
    def verb(self) -> str:
        """What made the run."""
        return self.state.verb

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end; resuming it then has nothing to do."""
        return self.state.status == "finished"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints; made when first asked for."""
        folder = self.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        return folder

    def config(self, cls: type[C]) -> C:
        """The settings of the run.

        Raises:
            RunError: The file is damaged.
            UsageError: They are not settings of ``cls``.
        """
        _require_plugins(self.path)
        return load_config(cls, settings_file(self.path), recorded=True)

    def write_json(self, name: str, content: Any) -> None:
        """Write ``name`` in the folder as JSON, replacing it at once."""
        write_json(self.path / name, content)

    def read_json(self, name: str, shape: Any = dict[str, Any]) -> Any:
        """Read the JSON file ``name`` of the folder, of a shape as :func:`~metaseg.files.read_json` takes it.

        Raises:
            RunError: It is missing or damaged.
        """
        kind = FileKind(f"a file of a 'metaseg {command_words(self.verb)}' run", "start the run again with --overwrite")
        return read_json(self.path / name, kind, shape)

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                if self.state.status == "running":
                    self.state.set_status("finished")
            else:
                if isinstance(error, (KeyboardInterrupt, WriteError)):
                    # In place of that of a run inside of this one.
                    error.__notes__ = [f"To continue: metaseg {command_words(self.verb)} --out {self.path} --resume"]
                stopped = isinstance(error, KeyboardInterrupt)
                reason = str(error) or "interrupted" if stopped else f"{type(error).__name__}: {error}".splitlines()[0]
                # A disk that is full has no room for this either, and the first error is the one to be told.
                with contextlib.suppress(WriteError):
                    self.state.set_status("stopped" if stopped else "failed", reason)
        finally:
            self.close()


def _require_plugins(path: Path) -> None:
    """Raise where a run was made with plug-ins, as its manifest tells, that are not installed."""
    file = path / "manifest.json"
    made_with = read_json(file, FileKind("the manifest of a run")).get("plugins", {}) if file.exists() else {}
    missing = sorted({plugin for plugin in made_with.values() if not is_installed(plugin)})
    if missing:
        raise RunError(
            "the run was made with plug-ins that are not installed", where=path, remedy=f"install {', '.join(missing)}"
        )


def is_run(path: Path) -> bool:
    """Whether ``path`` is a run folder."""
    return (path / STATE_NAME).is_file()


def like_named(path: Path) -> str | None:
    """The question whether another run was meant, where one beside ``path`` has nearly its name."""
    names = [entry.name for entry in path.parent.iterdir() if is_run(entry)] if path.parent.is_dir() else []
    found = nearest(path.name, names)
    return None if found is None else f"did you mean '{path.with_name(found)}'?"


def saved_settings(path: Path, cls: type[Config]) -> Path | None:
    """Settings file of the run in ``path``; None if there is no run of the verb of ``cls``.

    ``--resume`` starts from it, so that the options of the first start need not be typed again.

    Raises:
        RunError: The file is not as the run wrote it.
    """
    if not is_run(path) or RunState.open(path / STATE_NAME).verb != config_verb(cls):
        return None
    _require_plugins(path)
    return settings_file(path, cls)


def settings_file(path: Path, as_written: type[Config] | None = None) -> Path:
    """The settings file of the run in ``path``, which would otherwise be read as one that leaves all at its default.

    Args:
        path: The run folder.
        as_written: The settings must also be those that the run wrote, of this class: a run continues with what it
            began with. Paths may be others, since data may be moved; ``inputs.json`` tells what must lie there.

    Raises:
        RunError: The file is gone or damaged, or not as written.
    """
    file, state = path / CONFIG_NAME, RunState.open(path / STATE_NAME)
    text = read_text(file, SETTINGS_KIND)
    if not text.startswith("verb: ") or not text.endswith("\n"):
        raise SETTINGS_KIND.refuse("the settings of the run are damaged: they are empty or cut off", file)
    if as_written is not None and state.settings is not None:
        values = read_yaml(file, SETTINGS_KIND)
        if not isinstance(values, dict) or state.settings != _settings_digest(values, as_written):
            raise SETTINGS_KIND.refuse(
                "the settings of the run are not as it wrote them: cut off, damaged or edited", file
            )
    return file


def run_status(run: RunFolder) -> str:
    """The status as a reader should see it: a run that nobody writes any more is not ``running`` but ``killed``."""
    return "killed" if run.state.status == "running" and not is_locked(run.path) else run.state.status


def config_changes(before: Config, after: Config) -> list[str]:
    """Settings that differ between two configs of one class and may change a result, each as ``name: old -> new``."""
    changes = []
    for field in describe_fields(type(after)):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if not field.free and old != new:
            changes.append(f"{field.option}: {_shown(old)} -> {_shown(new)}")
    return changes


def _check_fresh(path: Path, config: RunOptions) -> None:
    """Raise unless a new run may be written to ``path``."""
    if path.exists() and not path.is_dir():
        raise ExistsError("the run folder's name belongs to a file", where=path, remedy="choose another --out")
    if is_run(path):
        if not config.overwrite and not _came_to_nothing(path):
            raise ExistsError(
                "the folder holds a run already",
                where=path,
                remedy="continue it with --resume, replace it with --overwrite, or choose another --out",
            )
        _refuse_to_delete_inputs(path, config)
    elif path.exists() and not _is_vacant(path):
        raise ExistsError(
            "the folder is not empty and holds no metaseg run",
            where=path,
            expected="a new or empty folder, or a run to replace",
            remedy="choose another --out",
        )


def _check_resumable(path: Path, config: RunOptions) -> None:
    """Raise unless ``path`` holds a run of the same verb with these settings."""
    kind: type[Config] = type(config)
    verb = config_verb(kind)
    if not is_run(path):
        raise RunError(
            "there is no run to resume",
            where=path,
            expected=f"a folder that an earlier 'metaseg {command_words(verb)}' wrote",
            remedy="check the path, or omit --resume to start a run",
        )
    state = RunState.open(path / STATE_NAME)
    if state.verb != verb:
        raise RunError(
            f"the run to resume is one of 'metaseg {command_words(state.verb)}'",
            where=path,
            expected=f"one of '{command_words(verb)}'",
        )
    changed = config_changes(_recorded_settings(path, config), config)
    if changed:
        raise UsageError(
            "settings differ from those of the run to resume: " + "; ".join(changed),
            where=path / CONFIG_NAME,
            expected="the same settings, except "
            + ", ".join(sorted(field.flag for field in describe_fields(kind) if field.free)),
            remedy="omit the changed settings, or start another run with another --out",
        )


def _recorded_settings(path: Path, config: RunOptions) -> Config:
    """The settings that the run in ``path`` wrote, with those of ``config`` for what its release left to a default.

    A setting that came later and is None by default has been resolved in ``config``, to what earlier releases did.
    """
    kind: type[Config] = type(config)
    file = settings_file(path, kind)
    recorded = present_names(kind, read_yaml(file, SETTINGS_KIND))
    later = (field for field in describe_fields(kind) if field.default is None and field.name not in recorded)
    return replace(load_config(kind, file), **{field.name: getattr(config, field.name) for field in later})


def _settings_digest(values: dict[str, Any], cls: type[Config]) -> str:
    """Digest of settings as a settings file has them; of paths only how many there are counts."""
    paths = {field.option for field in describe_fields(cls) if field.path}
    counted = {"verb": config_verb(cls)} | {
        name: (len(value) if isinstance(value, list) else value is not None) if name in paths else value
        for name, value in values.items()
    }
    return blake2b(json.dumps(counted, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _shown(value: Any) -> str:
    value = plain_value(value)
    return "none" if value is None else ",".join(map(str, value)) or "empty" if isinstance(value, list) else str(value)


def _new_folder(verb: str) -> Path:
    name = f"{verb}-{datetime.now():%Y%m%d-%H%M%S}"
    for number in itertools.count(1):
        path = RUNS / (name if number == 1 else f"{name}-{number}")
        with writing(path), contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            break
    return path


def _is_vacant(path: Path) -> bool:
    """Whether a folder holds nothing but what a run killed at its very start leaves behind."""
    return all(entry.name == LOCK_NAME or entry.name.endswith(".tmp") for entry in path.iterdir())


def _came_to_nothing(path: Path) -> bool:
    """Whether a run failed before it made anything: a mended command line may then be given again as it is."""
    if any(entry.name != LOCK_NAME and entry.suffix not in (".json", ".yaml") for entry in path.iterdir()):
        return False
    state = RunState.open(path / STATE_NAME)
    return state.status == "failed" and state.is_empty


def _refuse_to_delete_inputs(path: Path, config: Config) -> None:
    """``--overwrite`` deletes the folder: nothing that the new run reads may lie in it."""
    folder = path.resolve()
    for name, value in config_paths(config):
        inside = Path(value).expanduser().resolve()
        if name != "out" and (inside == folder or folder in inside.parents):
            raise UsageError(
                f"--overwrite would delete what the run reads: {name} is '{value}'",
                where=path,
                remedy="choose another --out",
            )


def config_paths(config: Config) -> Iterator[tuple[str, str]]:
    """Name and value of every setting that is a path or may be one; of several paths one by one."""
    for field in describe_fields(type(config)):
        value = getattr(config, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if field.path and item:
                yield field.name, str(item)


class RunLock:
    """An exclusive lock on a run folder, held from construction to :meth:`release`.

    The lock is the operating system's, on a file that stays in the folder: a lock *file* by itself would outlive
    ``kill -9`` and block the next run.

    Args:
        folder: The run folder; it must exist.

    Raises:
        RunError: Another process, or another object of this one, holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._stream: IO[str] | None = None
        stream = (folder / LOCK_NAME).open("a+", encoding="utf-8")
        if not _lock(stream):
            stream.seek(0)
            holder = stream.read().strip()
            stream.close()
            raise RunError(
                "the run is being written" + (f" by process {holder}" if holder.isdigit() else ""),
                where=folder,
                remedy="wait until it has ended, or write to another folder with --out",
            )
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        self._stream = stream
        _HELD.add(self)

    def release(self) -> None:
        """Give the lock back; more than once does no harm."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def is_locked(folder: Path) -> bool:
    """Whether some process is writing the run in ``folder``."""
    try:
        with (folder / LOCK_NAME).open("r+", encoding="utf-8") as stream:
            return not _lock(stream)
    except OSError:
        return False


def _lock(stream: IO[str]) -> bool:
    """Try to lock an open file; False if someone else has. Closing the file unlocks it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems know no locks; a run there must be possible all the same.
        return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
    return True


_HELD: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _release_in_child() -> None:
    # A forked worker shares its parent's lock; if it outlived a killed parent, the run would stay locked.
    for lock in list(_HELD):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)


@dataclass(frozen=True)
class RunRow:
    """One run in a list.

    Attributes:
        path: Its folder.
        verb: What made it.
        status: ``running``, ``finished``, ``stopped``, ``failed``, ``killed``, or ``damaged`` if it cannot be read.
        reason: Why it stopped, failed or cannot be read.
        started: When it was first started, ISO 8601 in UTC; empty if unknown.
        metrics: Its best metrics.
        data: Folders that it read; empty for phantoms.
        synthetic: Whether its data are phantoms; None if unknown.
    """

    path: Path
    verb: str
    status: str
    reason: str | None
    started: str
    metrics: dict[str, float | None]
    data: tuple[str, ...]
    synthetic: bool | None


def list_runs(root: Path) -> list[RunRow]:
    """All runs in ``root`` and its subfolders, oldest first; runs inside of runs are left out.

    A damaged run is listed as such: one broken folder must not hide the others.
    """
    return sorted((_row(path) for path in _find(root)), key=lambda row: (row.started, str(row.path)))


def _find(folder: Path, depth: int = 4) -> list[Path]:
    if is_run(folder):
        return [folder]
    if depth == 0 or not folder.is_dir():
        return []
    children = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [run for child in children for run in _find(child, depth - 1)]


def _row(path: Path) -> RunRow:
    try:
        run = RunFolder.open(path)
        manifest = read_manifest(path)
        sessions = manifest.get("sessions") or [{}]
        return RunRow(
            path=path,
            verb=run.verb,
            status=run_status(run),
            reason=run.state.reason,
            started=str(sessions[0].get("started", "")),
            metrics=run.state.metrics,
            data=_data(path),
            synthetic=manifest.get("synthetic"),
        )
    except MetasegError as error:
        return RunRow(path, "", "damaged", error.found, "", {}, (), None)


def _data(path: Path) -> tuple[str, ...]:
    """``data`` of the run's settings, read without their class, which a later version may have changed."""
    settings = read_yaml(path / CONFIG_NAME, FileKind("the settings of a metaseg run"))
    data = (settings.get("data") or ()) if isinstance(settings, dict) else ()
    return tuple(map(str, data)) if isinstance(data, list) else (str(data),)
