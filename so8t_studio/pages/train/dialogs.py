"""Questions and file dialogs of the Train page."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFileDialog, QMessageBox, QWidget

from so8t_engine.specs import TrainSpec, encode_spec
from so8t_engine.workspace.atomic import write_bytes
from so8t_engine.workspace.personas import Persona

KEEP_SPECS = 20


def _tr(text: str) -> str:
    return QCoreApplication.translate("TrainDialogs", text)


def write_spec(persona: Persona, spec: TrainSpec) -> Path:
    """Keep the settings of each start, so that a queued run has its own file.

    Raises:
        OSError: if the disk is full or the folder not writable.
    """
    folder = persona.root / "specs"
    path = folder / f"{dt.datetime.now():%Y%m%d_%H%M%S_%f}.json"
    write_bytes(path, encode_spec(spec))
    for old in sorted(folder.glob("*.json"))[:-KEEP_SPECS]:
        old.unlink()
    return path


def confirm_kill(parent: QWidget) -> bool:
    """Ask whether to end the process at once; the safe answer is the default."""
    box = QMessageBox(parent)
    box.setObjectName("killQuestion")
    box.setIcon(QMessageBox.Icon.Warning)
    box.setWindowTitle(_tr("End the process now"))
    box.setText(_tr("End the process at once?"))
    box.setInformativeText(
        _tr("Steps since the last checkpoint are lost. “Stop and save” loses nothing.")
    )
    yes = box.addButton(_tr("End now"), QMessageBox.ButtonRole.DestructiveRole)
    no = box.addButton(_tr("Keep running"), QMessageBox.ButtonRole.RejectRole)
    box.setDefaultButton(no)
    box.setEscapeButton(no)
    box.exec()
    return box.clickedButton() is yes


def show_command(parent: QWidget, line: str) -> None:
    """Copy a command line to the clipboard and show it."""
    QGuiApplication.clipboard().setText(line)
    box = QMessageBox(parent)
    box.setObjectName("commandBox")
    box.setWindowTitle(_tr("The same run in a terminal"))
    box.setText(_tr("This line was copied to the clipboard:"))
    box.setInformativeText(line)
    box.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    box.exec()


def ask_open(parent: QWidget) -> Path | None:
    """Ask for a file with settings."""
    name, _ = QFileDialog.getOpenFileName(parent, _tr("Load settings"), "", "JSON (*.json)")
    return Path(name) if name else None


def ask_save(parent: QWidget) -> Path | None:
    """Ask where to save settings."""
    name, _ = QFileDialog.getSaveFileName(
        parent, _tr("Save settings"), "train.json", "JSON (*.json)"
    )
    return Path(name) if name else None
