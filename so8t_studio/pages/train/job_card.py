"""The state of the run in words, with progress, time left and the controls."""

from __future__ import annotations

import time

from PySide6.QtCore import Qt, QTimer, Signal, Slot
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout

from so8t_engine.events import Progress
from so8t_studio.jobs.handle import JobHandle
from so8t_studio.jobs.state import Phase, phase_sentence, phase_word
from so8t_studio.pages.train.controls import buttons_for, duration
from so8t_studio.theme import Theme

TOKENS = {
    Phase.DONE: "success",
    Phase.FAILED: "error",
    Phase.CRASHED: "error",
    Phase.CANCELLED: "warning",
    Phase.PAUSED: "warning",
    Phase.DETACHED: "info",
}
SIGNS = {
    Phase.QUEUED: "…", Phase.STARTING: "▸", Phase.RUNNING: "▶", Phase.PAUSED: "❚❚",
    Phase.STOPPING: "◼", Phase.DONE: "✓", Phase.CANCELLED: "◻", Phase.FAILED: "✕",
    Phase.CRASHED: "!", Phase.DETACHED: "↗",
}  # fmt: skip


class JobCard(QFrame):
    """Buttons derive from the state of the process alone (see ``controls.buttons_for``)."""

    start_requested = Signal()
    kill_requested = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setProperty("role", "card")
        self.setObjectName("jobCard")
        self._handle: JobHandle | None = None
        self._can_start = True
        self._why_not = ""
        row = QHBoxLayout(self)
        row.setContentsMargins(16, 12, 16, 12)
        row.setSpacing(12)
        words = QVBoxLayout()
        words.setSpacing(4)
        head = QHBoxLayout()
        head.setSpacing(8)
        self.pill = QLabel()
        self.pill.setObjectName("jobPhase")
        head.addWidget(self.pill)
        self.sentence = QLabel()
        self.sentence.setObjectName("jobSentence")
        self.sentence.setMinimumWidth(40)
        self.sentence.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        head.addWidget(self.sentence, 1)
        words.addLayout(head)
        self.bar = QProgressBar()
        self.bar.setObjectName("jobProgress")
        self.bar.setAccessibleName(self.tr("Progress of the run"))
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(8)
        words.addWidget(self.bar)
        self.detail = QLabel()
        self.detail.setObjectName("jobDetail")
        self.detail.setProperty("role", "caption")
        self.detail.setMinimumWidth(40)
        words.addWidget(self.detail)
        row.addLayout(words, 1)
        self.start = self._button("trainStart", self.tr("Start"), "primary")
        self.start.clicked.connect(self.start_requested)
        self.pause = self._button("trainPause", self.tr("Pause"))
        self.pause.clicked.connect(self._on_pause_clicked)
        self.stop = self._button("trainStop", self.tr("Stop and save"))
        self.stop.clicked.connect(self._on_stop_clicked)
        self.kill = self._button("trainKill", self.tr("End now…"), "danger")
        self.kill.setToolTip(self.tr("End the process at once. Steps since the last checkpoint "
                                     "are lost."))  # fmt: skip
        self.kill.clicked.connect(self.kill_requested)
        for button in (self.start, self.pause, self.stop, self.kill):
            row.addWidget(button)
        self._clock = QTimer(self)
        self._clock.setInterval(1000)
        self._clock.timeout.connect(self._on_second)
        Theme.instance().changed.connect(self._on_theme_changed)
        self.refresh()

    def _button(self, name: str, text: str, kind: str = "") -> QPushButton:
        button = QPushButton(text)
        button.setObjectName(name)
        button.setAccessibleName(text)
        if kind:
            button.setProperty("kind", kind)
        return button

    # -- what is shown --------------------------------------------------------------------------
    def set_handle(self, handle: JobHandle | None) -> None:
        """Show another job, or none."""
        if self._handle is not None:
            self._handle.state_changed.disconnect(self._on_job_changed)
            self._handle.events.disconnect(self._on_job_changed)
        self._handle = handle
        if handle is not None:
            handle.state_changed.connect(self._on_job_changed)
            handle.events.connect(self._on_job_changed)
        self.refresh()

    @property
    def handle(self) -> JobHandle | None:
        """The job that is shown."""
        return self._handle

    def set_can_start(self, on: bool, why_not: str = "") -> None:
        """Allow or block the start; ``why_not`` becomes the tooltip."""
        self._can_start, self._why_not = on, why_not
        self.refresh()

    def refresh(self) -> None:
        """Show what the process is doing now."""
        handle = self._handle
        state = handle.state if handle is not None else None
        buttons = buttons_for(state)
        self.start.setVisible(buttons.start)
        self.start.setEnabled(buttons.start and self._can_start)
        self.start.setToolTip(self._why_not or self.tr("Start a new run with these settings."))
        for button, on in ((self.pause, buttons.pause or buttons.resume),
                           (self.stop, buttons.stop), (self.kill, buttons.kill)):  # fmt: skip
            button.setVisible(not buttons.start)
            button.setEnabled(on)
        paused = state is not None and (state.phase is Phase.PAUSED)
        self.pause.setText(self.tr("Resume") if paused else self.tr("Pause"))
        self.pause.setAccessibleName(self.pause.text())
        if state is None:
            self._show_ready()
            return
        self.pill.show()
        self.pill.setText(f"{SIGNS[state.phase]}  {phase_word(state.phase)}")
        self._style_pill(TOKENS.get(state.phase, "accent"))
        words, next_step = state.sentence, state.next_step
        if state.phase in (Phase.FAILED, Phase.CRASHED):  # the failure card says it in full
            words, next_step = phase_sentence(state.phase), ""
        if state.pause_requested:
            words = self.tr("Pausing after the current step.")
        self.sentence.setText(" ".join(filter(None, (words, next_step))))
        self.sentence.setToolTip(self.sentence.text())
        assert handle is not None
        self._show_progress(handle)
        if state.is_final:
            self._clock.stop()
        elif not self._clock.isActive():
            self._clock.start()

    def _show_ready(self) -> None:
        self.pill.hide()
        self.bar.hide()
        if self._can_start:
            self.sentence.setText(self.tr("Ready to train."))
        else:
            self.sentence.setText(self._why_not)
        self.sentence.setToolTip(self.sentence.text())
        self.detail.setText(self.tr("The run is kept with its settings, data and every figure."))
        self._clock.stop()

    def _show_progress(self, handle: JobHandle) -> None:
        progress, state = handle.progress, handle.state
        shown = progress is not None and not state.is_final
        self.bar.setVisible(shown)
        if progress is not None and shown:
            known = progress.total > 0
            self.bar.setRange(0, 1000 if known else 0)
            if known:
                self.bar.setValue(round(1000 * min(1.0, progress.done / progress.total)))
        parts = []
        if progress is not None and not state.is_final:
            parts.append(self._phase_words(progress))
            if progress.eta_s is not None and state.phase in (Phase.RUNNING, Phase.STARTING):
                left = duration(progress.eta_s)
                parts.append(self.tr("about {time} left").format(time=left))
        if handle.started_mono and not state.is_final:
            spent = duration(time.monotonic() - handle.started_mono)
            parts.append(self.tr("{time} so far").format(time=spent))
        if state.adopted:
            parts.append(self.tr("started elsewhere"))
        if state.garbage:
            parts.append(self.tr("{count} unreadable lines").format(count=state.garbage))
        if state.run_dir is not None:
            parts.append(self.tr("run {name}").format(name=state.run_dir.name))
        if state.pid:
            parts.append(self.tr("process {pid}").format(pid=state.pid))
        self.detail.setToolTip("\n".join(parts))
        self.detail.setText("  ·  ".join(parts))

    def _phase_words(self, progress: Progress) -> str:
        names = {
            "loading base": self.tr("Loading the base model"),
            "caching prefix": self.tr("Preparing the unchanged layers"),
            "training": self.tr("Training"),
            "evaluating": self.tr("Measuring on validation"),
            "saving": self.tr("Saving"),
            "paused": self.tr("Paused"),
        }
        name = names.get(progress.phase, progress.phase)
        if progress.total <= 0:
            return name
        return f"{name} {progress.done:g} / {progress.total:g} {progress.unit}"

    def _style_pill(self, token: str) -> None:
        tokens = Theme.instance().tokens
        ink, fill = getattr(tokens, token), getattr(tokens, f"{token}_soft")
        self.pill.setStyleSheet(
            f"color: {ink}; background: {fill}; border-radius: 10px; padding: 2px 10px;"
            "font-weight: 700; font-size: 9pt;"
        )

    # -- slots ----------------------------------------------------------------------------------
    @Slot()
    def _on_job_changed(self) -> None:
        self.refresh()

    @Slot()
    def _on_second(self) -> None:
        if self._handle is not None:
            self._show_progress(self._handle)

    @Slot()
    def _on_theme_changed(self) -> None:
        self.refresh()

    @Slot()
    def _on_pause_clicked(self) -> None:
        if self._handle is None:
            return
        if self._handle.state.phase is Phase.PAUSED:
            self._handle.resume()
        else:
            self._handle.pause()

    @Slot()
    def _on_stop_clicked(self) -> None:
        if self._handle is not None:
            self._handle.stop()
