"""The rotations that a run has learned: matrices, angles, health, and how they came about."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from PySide6.QtCore import Qt, QTimer, QUrl, Slot
from PySide6.QtGui import QDesktopServices, QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QComboBox,
    QFrame,
    QLabel,
    QPushButton,
    QScrollArea,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.rotations.analysis import BlockView, RecordingError
from so8t_engine.workspace.runs import RunStore
from so8t_studio.context import AppContext, RunChange
from so8t_studio.jobs.background import Failure, Loader
from so8t_studio.jobs.state import JobState
from so8t_studio.pages.base import Page
from so8t_studio.pages.rotations.controls import RotationControls
from so8t_studio.pages.rotations.figure_saver import FigureSaver, FigureWish
from so8t_studio.pages.rotations.health_panel import HealthPanel
from so8t_studio.pages.rotations.identity_note import identity_note
from so8t_studio.pages.rotations.loading import Frame, OpenedRun, RotationReader, RunChoice
from so8t_studio.pages.rotations.matrix_row import HoveredCell, MatrixRow
from so8t_studio.pages.rotations.scrubber import Scrubber
from so8t_studio.pages.rotations.timeline_panel import TimelinePanel
from so8t_studio.widgets.banner import Banner
from so8t_studio.widgets.empty_state import EmptyState
from so8t_studio.widgets.side_by_side import SideBySide

FOLLOW_MS = 2000
HEALTH_WIDTH = 296


class RotationsPage(Page):
    """Pick a run, a gate, a block and a step; everything else follows."""

    key = "rotations"

    def __init__(self, context: AppContext, parent: QWidget | None = None) -> None:
        super().__init__(context, parent)
        self._reader = RotationReader()
        self._loader = Loader(self)
        self._choices: list[RunChoice] = []
        self._opened: OpenedRun | None = None
        self._frame: Frame | None = None
        self._view: BlockView | None = None
        self._wanted_run = ""
        self._stale = True
        self.saver = FigureSaver(context.jobs, self)
        self.saver.saved.connect(self._on_figure_saved)
        self.saver.failed.connect(self._on_figure_failed)
        self._follow = QTimer(self)
        self._follow.setInterval(FOLLOW_MS)
        self._follow.timeout.connect(self._on_follow_due)
        self._build()
        context.persona_changed.connect(self._on_persona_changed)
        context.runs_changed.connect(self._on_runs_changed)

    def title(self) -> str:
        """Return the name of the page."""
        return self.tr("Rotations")

    # -- construction ---------------------------------------------------------------------------
    def _build(self) -> None:
        self.runs = QComboBox()
        self.runs.setObjectName("runChoice")
        self.runs.setAccessibleName(self.tr("Run"))
        self.runs.setToolTip(self.tr("The run whose rotations are shown."))
        self.runs.setMinimumWidth(310)
        self.runs.activated.connect(self._on_run_activated)
        self.header.add_action(self.runs)
        self.save = QPushButton(self.tr("Save figure…"))
        self.save.setObjectName("saveFigure")
        self.save.setAccessibleName(self.tr("Save the four matrices as a figure"))
        self.save.setToolTip(self.tr("Save the four matrices as PNG, SVG or PDF."))
        self.save.setShortcut(QKeySequence("Ctrl+Shift+S"))
        self.save.clicked.connect(self._on_save_clicked)
        self.header.add_action(self.save)
        self.banner = Banner(dismissible=True)
        self.banner.action_triggered.connect(self._on_banner_action)
        self._banner_target: Path | None = None
        self.body.addWidget(self.banner)
        self.stack = QStackedWidget()
        self.empty = EmptyState("rotations", "", "")
        self.empty.action_triggered.connect(self._on_empty_action)
        self.stack.addWidget(self.empty)
        self.loading = EmptyState(
            "rotations", self.tr("Reading the recordings…"), self.tr("This takes a moment.")
        )
        self.stack.addWidget(self.loading)
        self.stack.addWidget(self._build_content())
        self.body.addWidget(self.stack, 1)
        space = QShortcut(QKeySequence(Qt.Key.Key_Space), self)
        space.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        space.activated.connect(self._on_space_pressed)

    def _build_content(self) -> QWidget:
        content = QWidget()
        content.setObjectName("scrollBody")
        column = QVBoxLayout(content)
        column.setContentsMargins(0, 0, 4, 0)
        column.setSpacing(12)
        self.controls = RotationControls()
        self.controls.block_chosen.connect(self._on_block_chosen)
        self.controls.view_changed.connect(self._show_block)
        self.controls.largest_requested.connect(self._on_largest_requested)
        column.addWidget(self.controls)
        card = QFrame()
        card.setProperty("role", "card")
        card.setObjectName("matrixCard")
        inside = QVBoxLayout(card)
        inside.setContentsMargins(12, 10, 8, 8)
        inside.setSpacing(2)
        self.matrices = MatrixRow()
        self.matrices.cell_hovered.connect(self._on_cell_hovered)
        inside.addWidget(self.matrices)
        self.readout = QLabel()
        self.readout.setObjectName("matrixReadout")
        self.readout.setProperty("role", "caption")
        inside.addWidget(self.readout)
        self.scrubber = Scrubber()
        self.scrubber.step_chosen.connect(self._on_step_chosen)
        inside.addWidget(self.scrubber)
        self.health = HealthPanel()
        column.addWidget(SideBySide(card, self.health, side_width=HEALTH_WIDTH))
        self.timeline = TimelinePanel()
        self.timeline.overview.block_chosen.connect(self._on_overview_chosen)
        column.addWidget(self.timeline, 1)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setWidget(content)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._on_cell_hovered(None)
        return area

    # -- what to show ---------------------------------------------------------------------------
    def on_shown(self) -> None:
        """Refresh if anything changed while hidden, and follow a run that records."""
        if self._stale:
            self._reload()
        self._follow.start()

    def on_hidden(self) -> None:
        """Stop playing and following."""
        self._follow.stop()
        self.scrubber.stop()

    def open_payload(self, payload: object) -> None:
        """Show the run with the session id ``payload``."""
        if isinstance(payload, str) and payload:
            self._wanted_run = payload
            self._reload()

    @Slot(object)
    def _on_persona_changed(self, _persona: object) -> None:
        self._wanted_run = ""
        self._opened = self._frame = self._view = None
        self._changed()

    @Slot(object)
    def _on_runs_changed(self, _change: RunChange) -> None:
        self._changed()

    def _changed(self) -> None:
        self._stale = True
        if self.isVisible():
            self._reload()

    @Slot()
    def _on_follow_due(self) -> None:
        choice = self._choice(self._opened.run_id) if self._opened else None
        if self._stale or (choice is not None and choice.active and not self._loader.busy):
            self._reload()

    def _choice(self, run_id: str) -> RunChoice | None:
        return next((choice for choice in self._choices if choice.id == run_id), None)

    def _run(self, run_id: str) -> RunStore | None:
        persona = self.context.persona
        return RunStore(persona.runs_dir / run_id) if persona and run_id else None

    def _reload(self) -> None:
        self._stale = False
        persona = self.context.persona
        if persona is None:
            self._choices = []
            self._show_empty(
                self.tr("No persona is open"),
                self.tr("Open a persona first."),
                self.tr("Go to Persona"),
            )
            return
        if self._opened is None:
            self.stack.setCurrentWidget(self.loading)
        self._loader.load("runs", partial(self._reader.choices, persona), self._take_choices)

    def _take_choices(self, value: object) -> None:
        if isinstance(value, Failure):
            self._show_failure(value)
            return
        assert isinstance(value, list)
        self._choices = value
        current = self._wanted_run or (self._opened.run_id if self._opened else "")
        usable = [choice for choice in value if choice.recordings or choice.active]
        if self._choice(current) is None:
            current = usable[0].id if usable else ""
        self._wanted_run = ""
        self._fill_runs(current)
        run = self._run(current)
        if run is None:
            self._opened = self._frame = self._view = None
            if value:
                title = self.tr("No run has recorded rotations")
                text = self.tr("Rotations are recorded when a run trains with gates switched on.")
            else:
                title = self.tr("No rotations yet")
                text = self.tr(
                    "Train this persona once. Its rotations can be watched here from the first "
                    "step on."
                )
            self._show_empty(title, text, self.tr("Go to Train"))
            return
        self._loader.load("open", partial(self._reader.open, run), self._take_opened)

    def _fill_runs(self, current: str) -> None:
        self.runs.blockSignals(True)
        self.runs.clear()
        for choice in self._choices:
            words = self.tr("recording") if choice.active else choice.state
            if not choice.recordings and not choice.active:
                words = self.tr("no rotations")
            parts = [choice.id, choice.name, words]
            self.runs.addItem("  ·  ".join(part for part in parts if part), choice.id)
        self.runs.setCurrentIndex(self.runs.findData(current))
        self.runs.blockSignals(False)
        self.runs.setEnabled(bool(self._choices))

    @Slot(int)
    def _on_run_activated(self, index: int) -> None:
        self._wanted_run = str(self.runs.itemData(index))
        self._opened = None
        self._reload()

    def _take_opened(self, value: object) -> None:
        if isinstance(value, Failure):
            self._show_failure(value)
            return
        assert isinstance(value, OpenedRun)
        first = self._opened is None or self._opened.run_id != value.run_id
        follow = first or self.scrubber.at_end
        self._opened = value
        if value.frame is None:
            active = value.state in ("starting", "running", "paused", "queued", "stopping")
            self._show_empty(
                self.tr("Nothing recorded in this run yet"),
                self.tr("The first recording comes with the first steps of the training.")
                if active
                else self.tr("This run ended before it recorded rotations, or had no gates."),
                "" if active else self.tr("Go to Train"),
            )
            return
        self.timeline.set_history(value.history)
        step = value.steps[-1] if follow or self.scrubber.step is None else self.scrubber.step
        self.scrubber.set_steps(value.steps, step)
        if self.banner.kind == "error" and self._banner_target is None:
            self.banner.clear()
        if step == value.frame.recording.step:
            self._take_frame(value.frame)
            if first:
                self._on_largest_requested()
        self.stack.setCurrentIndex(2)
        self.runs.show()
        self.save.show()
        self.save.setEnabled(True)

    @Slot(object)
    def _on_step_chosen(self, step: int) -> None:
        run = self._run(self._opened.run_id) if self._opened else None
        if run is not None:
            self._loader.load("frame", partial(self._reader.frame, run, step), self._take_frame)

    def _take_frame(self, value: object) -> None:
        if isinstance(value, Failure):
            self.scrubber.stop()
            self.banner.show_message("error", value.text, details=value.details)
            return
        assert isinstance(value, Frame)
        self._frame = value
        self.controls.set_recording(value.recording)
        self.timeline.set_summary(value.summary)
        self._show_block()

    # -- one block ------------------------------------------------------------------------------
    @Slot(object)
    def _on_block_chosen(self, _chosen: tuple[str, int]) -> None:
        self._show_block()

    @Slot(object)
    def _on_overview_chosen(self, chosen: tuple[str, int]) -> None:
        self.controls.choose(*chosen)
        self._show_block()

    @Slot()
    def _on_largest_requested(self) -> None:
        if self._frame is None:
            return
        gate, block, _angle = self._frame.summary.largest(self.timeline.side)
        self.controls.choose(gate, block)
        self._show_block()

    @Slot()
    def _show_block(self) -> None:
        if self._frame is None:
            return
        recording = self._frame.recording
        gate, block = self.controls.chosen
        try:
            view = recording.view(gate, block, self.controls.strength_value)
        except RecordingError as error:
            self.banner.show_message("error", str(error))
            return
        self._view = view
        self.matrices.set_matrices(
            ("R_safe", "R_cmd", "R_cmd·R_safe", self.tr("Commutator")),
            (view.safe, view.cmd, view.product, view.commutator),
            limit=view.colour_limit(stretch=self.controls.stretch.isChecked()),
            first_channel=0 if recording.sharing == "shared" else block * 8,
        )
        self._on_cell_hovered(self.matrices.cursor_cell())
        note = identity_note(
            view,
            strength=self.controls.strength_value,
            step=recording.step,
            reason=self._opened.reason if self._opened else "",
        )
        self.health.set_view(view, note)
        self.timeline.overview.choose(gate, block)
        angle = math.degrees(view.angles_product[0])
        self.header.set_subtitle(
            self.tr("{gate}, block {block}, step {step}: turns by up to {angle}°").format(
                gate=gate, block=block, step=recording.step, angle=f"{angle:.2f}"
            )
        )

    @Slot(object)
    def _on_cell_hovered(self, cell: HoveredCell | None) -> None:
        if cell is None or self._frame is None:
            self.readout.setText(
                self.tr("Point at a cell, or press the arrow keys, to read its value.")
            )
            return
        names = ("R_safe", "R_cmd", "R_cmd·R_safe", self.tr("Commutator"))
        block = self.controls.chosen[1]
        first = 0 if self._frame.recording.sharing == "shared" else 8 * block
        self.readout.setText(
            self.tr("{matrix}, output channel {row}, input channel {column}:  {value}").format(
                matrix=names[cell.matrix],
                row=first + cell.row,
                column=first + cell.column,
                value=f"{cell.value:+.6f}",
            )
        )

    @Slot()
    def _on_space_pressed(self) -> None:
        if self.scrubber.play.isEnabled():
            self.scrubber.play.toggle()

    # -- empty, loading, error ------------------------------------------------------------------
    def _show_empty(self, title: str, text: str, button: str) -> None:
        self.scrubber.stop()
        self.empty.set_content(title, text, button)
        self.stack.setCurrentWidget(self.empty)
        self.save.setEnabled(False)
        self.save.hide()
        self.runs.setVisible(bool(self._choices))
        self.header.set_subtitle("")

    def _show_failure(self, failure: Failure) -> None:
        self._banner_target = None
        self.banner.show_message("error", failure.text, details=failure.details)
        if self._frame is None:
            self._show_empty(
                self.tr("These rotations cannot be read"),
                self.tr("Choose another run in the list above."),
                "",
            )

    @Slot()
    def _on_empty_action(self) -> None:
        self.context.navigate("persona" if self.context.persona is None else "train")

    # -- figures --------------------------------------------------------------------------------
    def figure_wish(self) -> FigureWish | None:
        """Return what is shown, to be drawn; None while nothing is."""
        run = self._run(self._frame.run_id) if self._frame else None
        if self._frame is None or run is None:
            return None
        gate, block = self.controls.chosen
        return FigureWish(
            run_dir=run.root,
            gate=gate,
            block=block,
            step=self._frame.recording.step,
            strength=self.controls.strength_value,
            stretch=self.controls.stretch.isChecked(),
        )

    @Slot()
    def _on_save_clicked(self) -> None:
        wish = self.figure_wish()
        if wish is not None and self.saver.choose_and_save(wish, self) is not None:
            self.save.setEnabled(False)

    @Slot(object)
    def _on_figure_saved(self, out: Path) -> None:
        self.save.setEnabled(self._frame is not None)
        self._banner_target = out
        words = self.tr("The figure is saved in {path}.").format(path=out)
        self.banner.show_message("success", words, action=self.tr("Open"))

    @Slot(object)
    def _on_figure_failed(self, state: JobState) -> None:
        self.save.setEnabled(self._frame is not None)
        self._banner_target = None
        words = " ".join(part for part in (state.sentence, state.next_step) if part)
        self.banner.show_message("error", words, details=state.details)

    @Slot()
    def _on_banner_action(self) -> None:
        if self._banner_target is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._banner_target)))
