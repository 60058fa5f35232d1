"""The former place of :mod:`metaseg.written_files`."""

from metaseg.written_files import finite_figures, remove_unfinished, replacing, write_json, write_text

__all__ = ["finite_figures", "remove_unfinished", "replacing", "write_json", "write_text"]
