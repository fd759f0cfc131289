"""Sphinx extension: docstrings as this package writes them, as reStructuredText.

A docstring has paragraphs, parameters, and indented blocks, which are formulas or code. A parameter is a
line `name: text` or `name, name: text` whose continuation is indented. Single backticks are for names of the
package, and for code.
"""

from __future__ import annotations

import re
from typing import Any

import cbokernels
import cbokernels.cbx
import cbokernels.cuda

PARAMETER = re.compile(r'^("?[a-z_][\w.]*"?(?:, "?[a-z_][\w.]*"?)*): (.*)$')
NAMES = {**{name: f"cbokernels.{name}" for name in cbokernels.__all__}, "TwoLayer.torch_default": ""}


def convert(lines: list[str], own: str = "") -> list[str]:
    """The lines of a docstring as reStructuredText."""
    out: list[str] = []
    rest = list(lines)
    while rest:
        line = rest.pop(0)
        indented = []
        while rest and (not rest[0].strip() or rest[0].startswith(" ")):
            indented.append(rest.pop(0))
        found = PARAMETER.match(line)
        if found and not line.startswith(" "):
            names = ", ".join(f"**{inline(name, own)}**" for name in found.group(1).split(", "))
            text = convert([found.group(2), *dedent(indented)], own)
            out += ["", names, *("   " + t if t else "" for t in text), ""]
        else:
            out.append(inline(line, own))
            out += block(indented)
    return out


def dedent(lines: list[str]) -> list[str]:
    """Lines without the indentation that all have."""
    least = min((len(t) - len(t.lstrip()) for t in lines if t.strip()), default=0)
    return [t[least:] for t in lines]


def block(lines: list[str]) -> list[str]:
    """An indented block as literal text, and the blank lines around it."""
    if not any(t.strip() for t in lines):
        return lines
    body = dedent(lines)
    return ["", ".. code-block:: text", "", *("   " + t if t.strip() else "" for t in body), ""]


def inline(text: str, own: str) -> str:
    """A line with its backticks resolved and what reStructuredText would read as markup escaped."""
    parts = re.split(r"`([^`]*)`", text)
    for i, part in enumerate(parts):
        if i % 2:
            name = NAMES.get(part)
            parts[i] = f":py:obj:`~{name}`" if name and name != own else f"``{part}``"
        else:
            parts[i] = re.sub(r"([\\*|]|_(?=\W|$))", r"\\\1", part)
    return "".join(parts)


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Replace a docstring's lines, as autodoc asks for."""
    if what == "class" and lines and lines[0].startswith(f"{name.rpartition('.')[2]}("):
        lines.clear()  # what dataclasses and named tuples write themselves
    lines[:] = convert(lines, name)


def setup(app: Any) -> dict[str, Any]:
    """Join autodoc."""
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True}
