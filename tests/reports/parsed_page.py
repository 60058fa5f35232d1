"""A page of the report, taken apart for tests."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}


class Page(HTMLParser):
    """A page taken apart; fails on tags that do not fit together."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self.bold: list[list[tuple[int, int]]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
            self.bold.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "strong" and "table" in self.open:
            self.bold[-1].append((len(self.tables[-1]) - 1, len(self.tables[-1][-1]) - 1))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            # The small print of a cell comes after its metric.
            self.tables[-1][-1][-1] += f" {data}" if "small" in self.open else data

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def row(self, name: str, table: int = 0) -> dict[str, str]:
        """The cells of a row by their columns."""
        head, *rows = self.tables[table]
        row = next(row for row in rows if row[0].split()[0] == name)
        return dict(zip(head, row, strict=True))

    def table(self, column: str) -> dict[str, dict[str, str]]:
        """The first table with a column, by the first word of each row."""
        head, *rows = next(rows for rows in self.tables if column in rows[0])
        return {row[0].split()[0]: dict(zip(head, row, strict=True)) for row in rows}

    def pictures(self, words: str) -> list[str]:
        """The descriptions of pictures that hold the words."""
        return [value for tag, name, value in self.attributes if (tag, name) == ("img", "alt") and words in value]

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]
