"""The engine's words, which are stable names in files and scripts, in the user's language."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication

from so8t_engine.evaluation.report import BASELINE_TITLES, METRIC_DEFINITIONS, METRIC_TITLES

CONTEXT = "EngineWords"
ENGINE_WORDS = (
    *METRIC_TITLES.values(),
    *METRIC_DEFINITIONS.values(),
    *BASELINE_TITLES.values(),
)


def metric_title(name: str) -> str:
    """Return what a metric is called."""
    return QCoreApplication.translate(CONTEXT, METRIC_TITLES[name])


def metric_definition(name: str) -> str:
    """Return what a metric measures, in one line."""
    return QCoreApplication.translate(CONTEXT, METRIC_DEFINITIONS[name])


def baseline_title(name: str) -> str:
    """Return what a baseline is called; an unknown one keeps its name."""
    return QCoreApplication.translate(CONTEXT, BASELINE_TITLES.get(name, name))
