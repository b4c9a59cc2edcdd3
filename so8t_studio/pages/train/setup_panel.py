"""Before a run: preset, findings, and every setting."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QSize, Qt, Signal, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QButtonGroup,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QRadioButton,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.specs import PRESETS, TrainSpec, preset
from so8t_studio.pages.train.checks import Check
from so8t_studio.pages.train.memory_panel import MemoryPanel
from so8t_studio.pages.train.spec_form import SpecForm
from so8t_studio.theme import Theme

ONE_ROW = 1300
ICONS = {"ok": "success", "info": "info", "warning": "warning", "error": "error"}


class PresetCard(QFrame):
    """A preset with what it means; the whole card is clickable."""

    chosen = Signal(str)

    def __init__(self, key: str, title: str, text: str, facts: str) -> None:
        super().__init__()
        self.key = key
        self.setProperty("role", "card")
        self.setObjectName(f"presetCard_{key}")
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 12, 16, 12)
        column.setSpacing(4)
        self.radio = QRadioButton(title)
        self.radio.setObjectName(f"preset_{key}")
        self.radio.setAccessibleName(title)
        self.radio.setAccessibleDescription(f"{text} {facts}")
        font = Theme.instance().font(11.0, bold=True)
        self.radio.setFont(font)
        self.radio.toggled.connect(self._on_radio_toggled)
        column.addWidget(self.radio)
        meaning = QLabel(text)
        meaning.setWordWrap(True)
        column.addWidget(meaning)
        details = QLabel(facts)
        details.setWordWrap(True)
        details.setProperty("role", "caption")
        column.addWidget(details)
        column.addStretch(1)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        Theme.instance().changed.connect(self._on_theme_changed)

    @Slot(bool)
    def _on_radio_toggled(self, on: bool) -> None:
        self._restyle()
        if on:
            self.chosen.emit(self.key)

    @Slot()
    def _on_theme_changed(self) -> None:
        self._restyle()

    def _restyle(self) -> None:
        tokens = Theme.instance().tokens
        if self.radio.isChecked():
            self.setStyleSheet(
                f"QFrame#{self.objectName()} {{ background: {tokens.accent_soft};"
                f" border: 2px solid {tokens.accent}; border-radius: 8px; }}"
            )
        else:
            self.setStyleSheet("")

    def mouseReleaseEvent(self, event: object) -> None:
        """A click anywhere on the card chooses it."""
        self.radio.setChecked(True)
        super().mouseReleaseEvent(event)


class CheckRow(QWidget):
    """One finding: sign, sentence, and what to do."""

    def __init__(self, check: Check) -> None:
        super().__init__()
        self.setObjectName(f"check_{check.key}")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(10)
        icon = QLabel()
        name = ICONS[check.level]
        icon.setPixmap(Theme.instance().icon(name, name).pixmap(16, 16))
        icon.setAccessibleName(check.level)
        row.addWidget(icon, 0, Qt.AlignmentFlag.AlignTop)
        text = f"{check.sentence} {check.next_step}".strip()
        label = QLabel(text)
        label.setWordWrap(True)
        label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        if check.level in ("error", "warning"):
            label.setProperty("role", check.level)
        row.addWidget(label, 1)
        self.setAccessibleName(f"{check.level}: {text}")


class SetupPanel(QScrollArea):
    """``settings_changed`` fires after each choice or edit."""

    settings_changed = Signal()
    command_requested = Signal()
    load_requested = Signal()
    save_requested = Signal()
    queue_requested = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("setupPanel")
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._preset = ""
        self._checks: list[Check] = []
        self._quiet = False
        self._preset_columns = 0
        body = QWidget()
        body.setObjectName("scrollBody")
        column = QVBoxLayout(body)
        column.setContentsMargins(0, 16, 8, 8)
        column.setSpacing(16)
        column.addLayout(self._make_presets())
        column.addWidget(self._make_checks())
        self.memory = MemoryPanel()
        column.addWidget(self.memory)
        column.addLayout(self._make_advanced_head())
        self.form = SpecForm()
        self.form.changed.connect(self._on_form_changed)
        self.form.hide()
        column.addWidget(self.form)
        column.addStretch(1)
        self.setWidget(body)
        self.choose("quick")
        Theme.instance().changed.connect(self._on_theme_changed)

    # -- construction ---------------------------------------------------------------------------
    def _make_presets(self) -> QGridLayout:
        words = {
            "quick": self.tr(
                "Teaches the starter weights what is new in the data. Minutes without a GPU."
            ),
            "balanced": self.tr("For a persona that you want to use. The right choice to start."),
            "thorough": self.tr("Every layer and the replies as well. Best with a GPU."),
            "card12": self.tr("A 7B-class base model, all layers, on a GPU with 12 GB."),
            "card6": self.tr("A 7B-class base model, its top layers, on a GPU with 6 GB."),
        }
        grid = self._preset_grid = QGridLayout()
        grid.setSpacing(16)
        self._cards: dict[str, PresetCard] = {}
        self._group = QButtonGroup(self)
        for key, (title, spec) in PRESETS.items():
            card = PresetCard(key, title, words.get(key, ""), self._facts(spec))
            card.chosen.connect(self._on_preset_chosen)
            self._group.addButton(card.radio)
            self._cards[key] = card
        self._arrange_presets(3)
        return grid

    def _arrange_presets(self, columns: int) -> None:
        if columns == self._preset_columns:
            return
        self._preset_columns = columns
        for index, card in enumerate(self._cards.values()):
            self._preset_grid.addWidget(card, index // columns, index % columns)
        for index in range(len(self._cards)):
            self._preset_grid.setColumnStretch(index, 1 if index < columns else 0)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put all presets into one row where they fit."""
        super().resizeEvent(event)
        self._arrange_presets(len(self._cards) if event.size().width() >= ONE_ROW else 3)

    def _facts(self, spec: TrainSpec) -> str:
        layers = spec.model.adapt_layers
        if layers == "all":
            where = self.tr("all layers")
        elif isinstance(layers, int):
            where = self.tr("the top {count} layers").format(count=layers)
        else:
            where = self.tr("{count} chosen layers").format(count=len(layers))
        passes = self.tr("1 pass") if spec.optim.epochs == 1 else (
            self.tr("{count} passes").format(count=f"{spec.optim.epochs:g}")
        )  # fmt: skip
        parts = [passes, where]
        if spec.model.lora is not None:
            parts.append(self.tr("LoRA rank {rank}").format(rank=spec.model.lora.rank))
        if spec.model.gates:
            parts.append(self.tr("SO(8) gates"))
        if spec.loss.w_task > 0:
            parts.append(self.tr("task loss"))
        if spec.start_from:
            parts.append(self.tr("from learned weights"))
        return " · ".join(parts)

    def _make_checks(self) -> QFrame:
        card = QFrame()
        card.setProperty("role", "card")
        column = QVBoxLayout(card)
        column.setContentsMargins(16, 12, 16, 12)
        column.setSpacing(8)
        self._checks_title = QLabel(self.tr("Before the start"))
        self._checks_title.setProperty("role", "h3")
        column.addWidget(self._checks_title)
        self._checks_box = QVBoxLayout()
        self._checks_box.setSpacing(6)
        column.addLayout(self._checks_box)
        return card

    def _make_advanced_head(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(8)
        self.advanced = QToolButton()
        self.advanced.setObjectName("advancedToggle")
        self.advanced.setCheckable(True)
        self.advanced.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.advanced.setIconSize(QSize(14, 14))
        self.advanced.setText(self.tr("Advanced settings"))
        self.advanced.setAccessibleName(self.tr("Show all settings"))
        self.advanced.toggled.connect(self._on_advanced_toggled)
        row.addWidget(self.advanced)
        self.changed_label = QLabel()
        self.changed_label.setProperty("role", "caption")
        row.addWidget(self.changed_label)
        row.addStretch(1)
        self.queue = QPushButton(self.tr("Add to the queue"))
        self.queue.setObjectName("trainQueue")
        self.queue.setAccessibleName(self.tr("Add a run with these settings to the queue"))
        self.queue.setToolTip(self.tr("Train with these settings when the current run has ended."))
        self.queue.clicked.connect(self.queue_requested)
        self.queue.hide()
        row.addWidget(self.queue)
        for name, text, tip, signal in (
            ("specLoad", self.tr("Load…"), self.tr("Load settings from a file."),
             self.load_requested),
            ("specSave", self.tr("Save as…"), self.tr("Save these settings to a file."),
             self.save_requested),
            ("specCommand", self.tr("Show as command"),
             self.tr("Show the line that starts the same run in a terminal."),
             self.command_requested),
        ):  # fmt: skip
            button = QPushButton(text)
            button.setObjectName(name)
            button.setProperty("kind", "quiet")
            button.setAccessibleName(text)
            button.setToolTip(tip)
            button.clicked.connect(signal)
            row.addWidget(button)
        return row

    # -- values ---------------------------------------------------------------------------------
    def choose(self, key: str, changes: dict[str, Any] | None = None) -> None:
        """Choose a preset and changes to it."""
        key = key if key in PRESETS else "quick"
        self._quiet = True
        self._preset = key
        self._cards[key].radio.setChecked(True)
        self.form.set_reference(preset(key), changes)
        self._quiet = False
        self._on_form_changed()

    def load_spec(self, spec: TrainSpec) -> None:
        """Show settings from elsewhere as changes of the preset that is nearest to them."""
        differences = {key: _difference(preset(key), spec) for key in PRESETS}
        nearest = min(differences, key=lambda key: len(differences[key]))
        self.choose(nearest, differences[nearest])
        if differences[nearest]:
            self.advanced.setChecked(True)

    @property
    def preset_key(self) -> str:
        """Key of the chosen preset."""
        return self._preset

    def show_checks(self, checks: list[Check]) -> None:
        """Replace the findings."""
        self._checks = checks
        while self._checks_box.count():
            item = self._checks_box.takeAt(0)
            if item.widget() is not None:
                item.widget().deleteLater()
        for check in checks:
            self._checks_box.addWidget(CheckRow(check))

    def checks(self) -> list[Check]:
        """Return the findings that are shown."""
        return list(self._checks)

    # -- slots ----------------------------------------------------------------------------------
    @Slot(str)
    def _on_preset_chosen(self, key: str) -> None:
        if not self._quiet and key != self._preset:
            self.choose(key)

    @Slot(bool)
    def _on_advanced_toggled(self, on: bool) -> None:
        self.form.setVisible(on)
        self._restyle()

    @Slot()
    def _on_form_changed(self) -> None:
        if self._quiet:
            return
        count, wrong = len(self.form.changes()), len(self.form.errors())
        if wrong:
            text = self.tr("{count} settings cannot be used").format(count=wrong)
        elif count:
            text = self.tr("{count} changed from “{name}”").format(
                count=count, name=PRESETS[self._preset][0]
            )
        else:
            text = self.tr("as in “{name}”").format(name=PRESETS[self._preset][0])
        self.changed_label.setText(text)
        self._restyle()
        self.settings_changed.emit()

    @Slot()
    def _on_theme_changed(self) -> None:
        self._restyle()
        self.show_checks(self._checks)

    def _restyle(self) -> None:
        name = "chevron-down" if self.advanced.isChecked() else "chevron-right"
        self.advanced.setIcon(Theme.instance().icon(name, "text"))


def _difference(reference: TrainSpec, spec: TrainSpec) -> dict[str, Any]:
    from so8t_engine.specs import changed_fields

    return changed_fields(spec, reference)
