"""Count the package's files and lines of code: docstrings, comments and blank lines are left out.

``python scripts/count_code.py [FOLDER] [--files]``
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
}


def code_lines(source: str) -> int:
    """Lines on which code stands."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - set(_docstring_lines(ast.parse(source))))


def _docstring_lines(tree: ast.Module) -> list[int]:
    found: list[int] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            found += range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    return found


def main() -> None:
    """Print the counts, room by room."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent / "metaseg")
    parser.add_argument("--files", action="store_true", help="print every file too")
    given = parser.parse_args()
    counts = {path: code_lines(path.read_text(encoding="utf-8")) for path in sorted(given.folder.rglob("*.py"))}
    files: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for path, count in counts.items():
        room = path.relative_to(given.folder).parts[0]
        files[room] += 1
        lines[room] += count
        if given.files:
            print(f"{count:6d}  {path.relative_to(given.folder)}")
    for room in lines:
        print(f"{files[room]:6d} files {lines[room]:7d} lines  {room}")
    print(f"{len(counts):6d} files {sum(counts.values()):7d} lines of code")


if __name__ == "__main__":
    main()
