"""Finds the texts that the window shows, in the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CALLS = {"tr": 0, "_tr": 0, "translate": 1, "QT_TRANSLATE_NOOP": 1}
"""Functions that translate, and which argument is the text."""


def translated_texts(*places: str) -> Iterator[tuple[str, str]]:
    """Yield the literal texts that are translated below the given places, each with its line."""
    for place in places:
        path = ROOT / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Call):
                    text = _text(node)
                    if text is not None:
                        yield text, f"{file.relative_to(ROOT)}:{node.lineno}"


def _text(call: ast.Call) -> str | None:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    position = CALLS.get(name)
    if position is None or len(call.args) <= position:
        return None
    argument = call.args[position]
    return argument.value if isinstance(argument, ast.Constant) else None
