"""What is known of one run, and what people wrote about it."""

from __future__ import annotations

import datetime as dt

from PySide6.QtCore import QTimer, Signal, Slot
from PySide6.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.workspace.runs import RunNotes
from so8t_studio.pages.train.controls import duration
from so8t_studio.pages.train.runs_model import RunRow

SAVE_AFTER_MS = 600


def parse_tags(text: str) -> tuple[str, ...]:
    """Return the words between commas, each once."""
    words = (" ".join(part.split()) for part in text.split(","))
    return tuple(dict.fromkeys(word for word in words if word))


class RunDetails(QWidget):
    """``edited(RunRow, RunNotes)`` a moment after the last key."""

    edited = Signal(object, object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("runDetails")
        self._row: RunRow | None = None
        self._quiet = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SAVE_AFTER_MS)
        self._timer.timeout.connect(self.flush)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 8, 0, 0)
        row.setSpacing(24)
        facts = QVBoxLayout()
        self.facts = QLabel()
        self.facts.setObjectName("runFacts")
        self.facts.setWordWrap(True)
        facts.addWidget(self.facts)
        facts.addStretch(1)
        row.addLayout(facts, 1)
        form = QFormLayout()
        form.setVerticalSpacing(8)
        self.star = QCheckBox(self.tr("★ Worth keeping"))
        self.star.setObjectName("runStar")
        self.star.setAccessibleName(self.tr("Mark the run as worth keeping"))
        self.star.toggled.connect(self._on_edited)
        form.addRow("", self.star)
        self.tags = QLineEdit()
        self.tags.setObjectName("runTags")
        self.tags.setAccessibleName(self.tr("Tags of the run, separated by commas"))
        self.tags.setPlaceholderText(self.tr("for example: baseline, before audit"))
        self.tags.textEdited.connect(self._on_edited)
        form.addRow(self.tr("Tags"), self.tags)
        self.note = QPlainTextEdit()
        self.note.setObjectName("runNote")
        self.note.setAccessibleName(self.tr("Note on the run"))
        self.note.setTabChangesFocus(True)
        self.note.setMinimumHeight(48)
        self.note.textChanged.connect(self._on_edited)
        form.addRow(self.tr("Note"), self.note)
        row.addLayout(form, 1)
        self.show_run(None)

    def show_run(self, row: RunRow | None, *, read_only: bool = False) -> None:
        """Show another run; what was typed for the one before is saved first."""
        same = row is not None and self._row is not None and row.store.root == self._row.store.root
        if not same:
            self.flush()
        typing = same and self._timer.isActive()
        self._row = row
        for editor in (self.star, self.tags, self.note):
            editor.setEnabled(row is not None and not read_only)
        self.facts.setText(self._facts(row))
        if typing:
            return
        self._quiet = True
        notes = row.notes if row is not None else RunNotes()
        self.star.setChecked(notes.starred)
        text = ", ".join(notes.tags)
        if parse_tags(self.tags.text()) != notes.tags:
            self.tags.setText(text)
        if self.note.toPlainText() != notes.note:
            self.note.setPlainText(notes.note)
        self._quiet = False

    def _facts(self, row: RunRow | None) -> str:
        if row is None:
            return self.tr("Select one run to see and to write about it.")
        state, spec = row.state, row.spec
        when = ""
        if state.started:
            when = dt.datetime.fromtimestamp(state.started).strftime("%Y-%m-%d %H:%M")
        lines = [
            self.tr("Run {run} of {persona}").format(run=row.store.id, persona=row.persona),
            self.tr("Started {when}, took {time}").format(
                when=when or "–", time=duration(row.seconds) if row.seconds else "–"
            ),
            self.tr("Data {mark}, {count} rows").format(mark=row.data or "–", count=row.rows),
        ]
        if spec is not None:
            lines.append(
                self.tr("Base model {base}, seed {seed}, {count} passes").format(
                    base=spec.base_model, seed=spec.seed, count=f"{spec.optim.epochs:g}"
                )
            )
        if state.best_step >= 0:
            lines.append(self.tr("Best at step {step}").format(step=state.best_step))
        if state.message:
            lines.append(state.message)
        if row.problem:
            lines.append(row.problem)
        return "\n".join(lines)

    def notes(self) -> RunNotes:
        """Return what the editors hold."""
        return RunNotes(
            note=self.note.toPlainText(),
            tags=parse_tags(self.tags.text()),
            starred=self.star.isChecked(),
        )

    @Slot()
    def _on_edited(self) -> None:
        if not self._quiet and self._row is not None:
            self._timer.start()

    @Slot()
    def flush(self) -> None:
        """Announce what was typed, now."""
        waiting = self._timer.isActive()
        self._timer.stop()
        if self._row is not None and (waiting or self.sender() is self._timer):
            notes = self.notes()
            if notes != self._row.notes:
                self.edited.emit(self._row, notes)
