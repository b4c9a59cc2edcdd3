"""How many rows there are, in all and per label; each count filters when clicked."""

from __future__ import annotations

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QHBoxLayout, QLabel, QToolButton, QWidget

from so8t_engine.labels import LABELS, Label
from so8t_studio.commands.dataset import rows_text
from so8t_studio.theme import Theme
from so8t_studio.widgets.label_chip import SIGNS, TOKENS


class CountsBar(QWidget):
    """Always visible: all rows, rows per label, rows shown."""

    label_chosen = Signal(object)
    """Label whose rows the user wants to see."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("countsBar")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        self.total = QLabel()
        self.total.setObjectName("countTotal")
        self.total.setProperty("role", "h3")
        row.addWidget(self.total)
        self._buttons: dict[Label, QToolButton] = {}
        for label in LABELS:
            button = QToolButton()
            button.setObjectName(f"count_{label.value}")
            button.setProperty("sampleLabel", label.value)
            button.setToolTip(
                self.tr("Show only rows labelled {label}; click again for all").format(
                    label=label.value
                )
            )
            button.clicked.connect(self._on_clicked)
            self._buttons[label] = button
            row.addWidget(button)
        row.addStretch(1)
        self.shown = QLabel()
        self.shown.setObjectName("countShown")
        self.shown.setProperty("role", "muted")
        row.addWidget(self.shown)
        Theme.instance().changed.connect(self._on_theme_changed)
        self._on_theme_changed()

    def show_counts(self, total: int, labels: dict[Label, int], shown: int, selected: int) -> None:
        """Show new numbers."""
        self.total.setText(rows_text(total))
        for label, button in self._buttons.items():
            count = labels[label]
            share = f" · {count / total:.0%}" if total else ""
            button.setText(f"{SIGNS[label]} {label.value}  {count:,}{share}")
            button.setAccessibleName(f"{label.value}: {count:,}")
        words = []
        if selected > 1:
            words.append(self.tr("{count} selected").format(count=f"{selected:,}"))
        if shown != total:
            words.append(
                self.tr("{shown} of {total} shown").format(shown=f"{shown:,}", total=f"{total:,}")
            )
        self.shown.setText(" · ".join(words))

    @Slot()
    def _on_clicked(self) -> None:
        button = self.sender()
        if isinstance(button, QToolButton):
            self.label_chosen.emit(Label(button.property("sampleLabel")))

    @Slot()
    def _on_theme_changed(self) -> None:
        tokens = Theme.instance().tokens
        for label, button in self._buttons.items():
            ink = getattr(tokens, TOKENS[label])
            fill = getattr(tokens, f"{TOKENS[label]}_soft")
            button.setStyleSheet(
                f"QToolButton {{ color: {ink}; background: {fill}; border-radius: 11px;"
                f" padding: 3px 10px; font-weight: 700; border: 1px solid {fill}; }}"
                f"QToolButton:hover, QToolButton:focus {{ border: 1px solid {ink}; }}"
            )
