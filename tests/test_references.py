"""Every citation in comments, docstrings and pages has its source in docs/REFERENCES.md."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("python", "csrc", "tests", "bench", "docs", "examples")
ENDINGS = {".py", ".pyi", ".md", ".hpp", ".cpp", ".cu"}
NAME = r"(?:De )?[A-Z][\w'-]+"
# "Kingma, Ba 2015", "Ma et al. 2024", "Hansen 2016" in brackets or behind a semicolon, not "version 2025".
CITED = re.compile(rf"({NAME}(?:, {NAME})*(?: et al\.)?) ((?:19|20)\d\d)\b")
BRACKETS = re.compile(r"\[([^\[\]]{5,200})\](?!\()")
LINE = re.compile(r"\n[ \t]*(?://+|#+|\*)?[ \t]*")


def plain(text):
    """Without accents: names in C++ comments are in ASCII."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def known():
    rows = plain((ROOT / "docs" / "REFERENCES.md").read_text(encoding="utf-8")).splitlines()
    return {name.strip() for row in rows if row[:2] == "| " for name in row.split("|")[1].split(";")}


def cited():
    """Citation -> the files that have it; several authors count outside of brackets too."""
    found = {}
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*")):
        if path.suffix not in ENDINGS or path.name == "REFERENCES.md" or "build" in path.parts:
            continue
        text = LINE.sub(" ", plain(path.read_text(encoding="utf-8")))
        inside = (match for part in BRACKETS.findall(text) for match in CITED.findall(part))
        several = (match for match in CITED.findall(text) if "," in match[0] or "et al" in match[0])
        for names, year in (*inside, *several):
            found.setdefault(f"{names} {year}", set()).add(path.relative_to(ROOT).as_posix())
    return found


def test_there_are_citations():
    found = cited()
    for name in ("De Deyn, Herty, Samaey 2025", "Hansen 2016", "Sterbenz 1974", "Peyre, Cuturi 2019"):
        assert found.get(name), name


def test_every_citation_has_its_source():
    missing = {name: sorted(files) for name, files in cited().items() if name not in known()}
    assert missing == {}


def test_every_source_is_cited():
    """But for what stands by a short name of its own, as a program's manual does."""
    found = cited()
    dated = {name for name in known() if re.search(r" \d{4}$", name)}
    shorter = re.compile(r"[A-Z]{3,4} \d{4}")  # a paper's initials
    assert {name for name in dated if name not in found and not shorter.fullmatch(name)} == set()
