"""What the documentation shows works: its Python blocks run as they stand, its commands and files are there.

A page is every Markdown file under docs/, and the README. The blocks of a page share their names.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import shlex
from pathlib import Path

import pytest

import cbokernels as cbk
from cbokernels import cli
from cbokernels.methods.base import Method

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "docs" / "build"
FOUND = sorted(page for page in (ROOT / "docs").rglob("*.md") if BUILT not in page.parents)
PAGES = [ROOT / "README.md", *FOUND]
# A section that imports one of these is left out where it is not installed.
OPTIONAL = {"sklearn", "torch", "cbx", "cma", "pandas", "polars", "mpi4py"}
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^## ", re.MULTILINE)
IMPORT = re.compile(r"^\s*(?:from|import) (?:cbokernels\.)?(\w+)", re.MULTILINE)
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")


def name(page):
    return page.relative_to(ROOT).as_posix()


def sections(page):
    """A list for each section: the code of its blocks, behind as many lines as on the page."""
    text = page.read_text()
    starts = [0, *(heading.start() for heading in HEADING.finditer(text)), len(text)]
    blocks = [
        (found.start(), "\n" * text.count("\n", 0, found.start(1)) + found.group(1))
        for found in BLOCK.finditer(text)
    ]
    return [[code for at, code in blocks if start <= at < end] for start, end in itertools.pairwise(starts)]


def commands(page):
    """Lines of the shell blocks, and what stands in single backticks, without comments."""
    text = page.read_text()
    lines = [line for block in SHELL.findall(text) for line in block.splitlines()]
    return [
        shlex.split(line, comments=True)
        for line in [*lines, *INLINE.findall(BLOCK.sub("", text))]
        if _whole(line)
    ]


def _whole(line):
    return (
        line.startswith(("cbokernels reproduce ", "cbokernels info", "python ", "pytest tests/"))
        and "NAME --help" not in line
    )


def test_there_are_blocks():
    shown = {name(page): sum(map(len, sections(page))) for page in PAGES}
    for page in (
        "README.md",
        "docs/TRAINING.md",
        "docs/ESTIMATORS.md",
        "docs/tutorial.md",
        "docs/methods/cbo.md",
    ):
        assert shown[page], page
    # A block that is written in another way would be left out.
    for page in PAGES:
        assert page.read_text().count("```python") == shown[name(page)], name(page)


def running(page):
    """The page, for a test of its blocks; two optimizers side by side take as long as all others together."""
    return pytest.param(page, id=name(page), marks=[pytest.mark.slow] if page.stem == "cma-es" else [])


@pytest.mark.parametrize("page", [running(page) for page in PAGES if any(sections(page))])
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    left_out = set()
    for blocks in sections(page):
        needed = {library for code in blocks for library in IMPORT.findall(code)} & OPTIONAL
        missing = {library for library in needed if importlib.util.find_spec(library) is None}
        left_out |= missing
        for code in [] if missing else blocks:
            exec(compile(code, str(page), "exec"), names)
    if left_out:
        pytest.skip(f"ran all but the sections with {', '.join(sorted(left_out))}, which is not installed")


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_commands_are_there(page):
    for program, *arguments in commands(page):
        if program == "cbokernels":
            cli._parser().parse_args(arguments)
        elif arguments[0] == "-m":
            assert importlib.util.find_spec(arguments[1]), arguments
        else:
            assert (ROOT / arguments[0]).exists(), arguments
        if program == "pytest" and "-k" in arguments:
            tests = re.findall(r"^def (test_\w+)", (ROOT / arguments[0]).read_text(), re.MULTILINE)
            assert any(arguments[-1] in test for test in tests), arguments


def test_every_public_name_is_in_the_reference():
    shown = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    there = set(re.findall(r"^\.\. auto\w+:: cbokernels\.(\w+)$", shown, re.MULTILINE))
    assert set(cbk.__all__) - there == set()


def test_every_method_has_a_page():
    pages = {page.read_text().partition("\n")[0] for page in (ROOT / "docs" / "methods").glob("*.md")}
    public = (kind.__name__ for kind in Method.__subclasses__() if "experiments" not in kind.__module__)
    for method in ("CBO", "ConsensusHopping", *public):
        assert any(re.match(rf"# {method}\b", title) for title in pages), method


def test_files_that_the_readme_names_are_there():
    text = (ROOT / "README.md").read_text()
    named = re.findall(r"\b(?:docs|bench|tests)/[\w./-]*\w", text)
    assert {"docs/sine.png", "docs/TRAINING.md"} <= set(named)
    for path in named:
        assert (ROOT / path).exists(), path
