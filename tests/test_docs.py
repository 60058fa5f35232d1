"""What the documents promise: links lead somewhere, command lines and Python blocks fit the program as it is."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import metaseg
from metaseg.cli.main import build_app
from metaseg.cli.verbs import spelled_out
from metaseg.config.io import load_config
from metaseg.errors import UsageError
from metaseg.verbs import VERBS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for pattern in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "data_cards/*.md")
    for path in ROOT.glob(pattern)
)
CONFIGS = {verb.name: verb for verb in VERBS}
SHELLS = ("bash", "sh", "shell", "console")

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="needs the repository")
on_every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text and the line on which it begins."""

    language: str
    text: str
    line: int


def blocks(text: str) -> Iterator[Block]:
    language: str | None = None
    begin, lines = 0, list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        fence = re.match(r"\s*```(\w*)", line)
        if fence and language is None:
            language, begin, lines = fence[1], number, []
        elif fence:
            yield Block(language or "", "\n".join(lines), begin)
            language = None
        elif language is not None:
            lines.append(line)
    assert language is None, f"the block that begins on line {begin} has no end"


def prose(text: str) -> str:
    """The text without its fenced blocks and without `code`."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.MULTILINE | re.DOTALL))


def links(text: str) -> list[str]:
    return re.findall(r"\]\(\s*<?([^)>\s]+)>?[^)]*\)", prose(text))


def anchors(text: str) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *#*$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower().replace(" ", "-") for heading in headings}


def command_lines(text: str, name: str = "metaseg") -> Iterator[list[str]]:
    """The words after the program's name, for every call of it in the shell blocks of a page."""
    for block in blocks(text):
        if block.language in SHELLS:
            for line in block.text.replace("\\\n", " ").splitlines():
                yield from _calls(line.removeprefix("$ "), name)


def _calls(line: str, name: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, "#"
    call: list[str] | None = None
    for word in [*lexer, ";"]:
        if set(word) <= set("();<>|&"):
            if call is not None:
                yield call
            call = None
        elif call is not None:
            call.append(word)
        elif Path(word).name == name:
            call = []


@lru_cache(maxsize=1)
def program() -> Any:
    return get_command(build_app())


def check_command(words: list[str]) -> None:
    """Parse a command line as the program would, without doing it.

    Raises:
        Exception: There is no such verb or option, or a value is not allowed.
    """
    command = program()
    context = command.context_class(command, info_name="metaseg")
    path = []
    while words and not words[0].startswith("-") and hasattr(command, "get_command"):
        below = command.get_command(context, words[0])
        assert below is not None, f"no verb '{words[0]}'"
        command, words, path = below, words[1:], [*path, words[0]]
    verb = CONFIGS.get("-".join(path))
    if {"-h", "--help", "--version"} & set(words):
        return
    given = spelled_out([*path, *words])[len(path) :]
    values = command.make_context(command.name, list(given)).params
    if verb:
        file = values.pop("config_file")
        assert file is None or (ROOT / file).is_file(), f"no file {file}"
        names = {field.name for field in verb.fields}
        overrides = {name: value for name, value in values.items() if name in names and value not in (None, [], ())}
        load_config(verb.config, None if file is None else ROOT / file, overrides)


@on_every_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


def test_commands_beside_the_papers_fit_the_program() -> None:
    text = (ROOT / "docs/papers.md").read_text(encoding="utf-8")
    commands = [shlex.split(code) for code in re.findall(r"`metaseg ([^`]+)`", text)]
    assert len(commands) > 4
    for words in commands:
        check_command(words)


@on_every_page
def test_command_lines_fit_the_program(page: Path) -> None:
    for words in command_lines(page.read_text(encoding="utf-8")):
        try:
            check_command(list(words))
        except Exception as error:
            message = error.format_message() if hasattr(error, "format_message") else error
            pytest.fail(f"metaseg {shlex.join(words)}\n{message}")


@on_every_page
def test_scripts_that_are_called_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in ("bash", "python"):
        for words in command_lines(text, name):
            if words and words[0].endswith((".sh", ".py")):
                assert (ROOT / words[0]).is_file(), words


@on_every_page
def test_python_blocks_fit_the_program(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language in ("python", "py"):
            tree = ast.parse(block.text, filename=f"{page.name}:{block.line}")
            compile(tree, f"{page.name}:{block.line}", "exec")
            for node in ast.walk(tree):
                _check_import(node)
                _check_verb_call(node)


def _check_import(node: ast.AST) -> None:
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "metaseg":
        module = importlib.import_module(node.module or "")
        for name in node.names:
            assert hasattr(module, name.name), f"{node.module} has no {name.name}"


def _check_verb_call(node: ast.AST) -> None:
    """``metaseg.pretrain(...)`` must name settings that there are, with values that are allowed."""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func).startswith("metaseg.")):
        return
    function = ast.unparse(node.func).removeprefix("metaseg.")
    name = function.replace("_", "-")
    if name not in CONFIGS:
        return
    assert hasattr(metaseg, function)
    known = inspect.signature(getattr(metaseg, function)).parameters
    given = dict(zip(known, node.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    assert set(given) <= set(known), f"{name}: {sorted(set(given) - set(known))}"
    literal = {key: ast.literal_eval(value) for key, value in given.items() if _is_literal(value)}
    literal = {key: value for key, value in literal.items() if key not in ("config", "progress")}
    arguments = {field.name: "x" for field in CONFIGS[name].fields if field.argument}
    load_config(CONFIGS[name].config, None, {**arguments, **literal})


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


@on_every_page
def test_yaml_blocks_are_settings(page: Path, tmp_path: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language in ("yaml", "yml"):
            file = tmp_path / "block.yaml"
            file.write_text(block.text, encoding="utf-8")
            content = yaml.safe_load(block.text)
            if "verb" in content:
                load_config(CONFIGS[content["verb"]].config, file)


@on_every_page
def test_nothing_of_a_workplace_is_named(page: Path) -> None:
    unwanted = r"(?<![\w/.~])/(?:home|root|Users|tmp|mnt)/|\bTODO\b|\bFIXME\b|@@"
    assert re.findall(unwanted, page.read_text(encoding="utf-8")) == []


def test_index_names_every_page() -> None:
    named = {link.partition("#")[0] for link in links((ROOT / "docs" / "index.md").read_text(encoding="utf-8"))}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"} <= named


def test_readme_names_every_verb() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    wanted = [
        f"{name} {below}".strip()
        for name, command in program().commands.items()
        for below in getattr(command, "commands", {"": None})
    ]
    assert "classify train" in wanted
    assert [name for name in wanted if f"| `metaseg {name}`" not in text] == []


def test_architecture_names_every_room() -> None:
    package = Path(metaseg.__file__).parent
    rooms = {path.name for path in package.iterdir() if (path / "__init__.py").exists()}
    architecture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert {name for name in rooms if f"`{name}/`" not in architecture} == set()


def test_architecture_names_only_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = Path(metaseg.__file__).parent
    found = [*package.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "scripts").rglob("*"), *ROOT.glob("*")]
    files = {path.name for path in found}
    named = set(re.findall(r"`(?:[\w/]+/)?(\w+\.(?:py|sh|toml))`", text))
    assert named
    assert named - files == set()


def test_version_is_one_and_the_same() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == metaseg.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})$", changelog, flags=re.MULTILINE)
    assert newest
    assert newest[1] == metaseg.__version__
    assert newest[2] == str(citation["date-released"])


# The checks themselves: each must be able to fail.


@pytest.mark.parametrize(
    "line",
    [
        "metaseg pretrian",
        "metaseg pretrain --epoch 3",
        "metaseg pretrain --epochs 0",
        "metaseg pretrain --model-options {}x",
        "metaseg data chek data",
        "metaseg data check data --formats brats",
        "metaseg metatune --engine torchopt",
        "metaseg pretrain --config configs/absent.yaml",
        "metaseg predict runs/x",
        "metaseg classify trian",
        "metaseg classify train --epochs 0",
        "metaseg classify active --acquisition entropi",
        "metaseg train",
    ],
)
def test_wrong_command_lines_are_found(line: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011  typer's own classes differ between its releases
        check_command(shlex.split(line)[1:])
    assert isinstance(caught.value, UsageError | AssertionError) or hasattr(caught.value, "exit_code")


def test_command_lines_are_found_in_shell_blocks_alone() -> None:
    text = (
        "`metaseg a`\n```bash\nX=1 metaseg b --c 'd e' \\\n  f  # g\nls | metaseg h && .venv/bin/metaseg i > j\n"
        "tensorboard --logdir metaseg-runs\n```\n```python\nmetaseg.k\n```\n"
    )
    assert list(command_lines(text)) == [["b", "--c", "d e", "f"], ["h"], ["i"]]


def test_links_and_anchors_are_found() -> None:
    text = "# A `b` (c)\n[x](y.md#z) ![p](q.png) `[n](o)`\n```\n[k](l)\n```\n"
    assert links(text) == ["y.md#z", "q.png"]
    assert anchors(text) == {"a-b-c"}


@pytest.mark.parametrize(
    "code", ["metaseg.pretrain(epoch=3)", "metaseg.metatune(shots=0)", "metaseg.classify_train(epochs=0)"]
)
def test_wrong_calls_are_found(code: str) -> None:
    with pytest.raises((AssertionError, UsageError)):
        _check_verb_call(ast.parse(code).body[0].value)  # type: ignore[attr-defined]
