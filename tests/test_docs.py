"""The Python blocks of the documentation run as they stand; those of a page share their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS = {"ESTIMATORS.md": ("sklearn", "torch", "cbx", "pandas")}  # besides what the tests need anyway
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page):
    """The code of each block, with as many lines before it as there are on the page."""
    text = page.read_text()
    return ["\n" * text.count("\n", 0, found.start(1)) + found.group(1) for found in BLOCK.finditer(text)]


def test_there_are_blocks():
    assert all(blocks(page) for page in PAGES if page.name in ("README.md", "TRAINING.md", "ESTIMATORS.md"))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_blocks_run(page, tmp_path, monkeypatch):
    for library in NEEDS.get(page.name, ()):
        pytest.importorskip(library, reason=f"{page.name} shows {library}, which is not installed")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    for code in blocks(page):
        exec(compile(code, str(page), "exec"), names)
