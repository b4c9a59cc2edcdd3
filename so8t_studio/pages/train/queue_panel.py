"""The runs that wait for their turn: order and removal."""

from __future__ import annotations

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QToolButton, QVBoxLayout, QWidget

from so8t_studio.jobs.handle import JobHandle
from so8t_studio.jobs.service import JobService


class QueuePanel(QFrame):
    """One row a waiting job; hidden while none waits."""

    def __init__(self, jobs: JobService, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setObjectName("queuePanel")
        self._jobs = jobs
        self._waiting: list[JobHandle] = []
        self._rows: list[tuple[QWidget, QLabel]] = []
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(16, 8, 16, 8)
        self._column.setSpacing(4)
        jobs.queue_changed.connect(self._on_queue_changed)
        self._on_queue_changed()

    @Slot()
    def _on_queue_changed(self) -> None:
        self._waiting = [job for job in self._jobs.queued() if self._jobs.lease_holder()]
        # Rows are kept and refilled: a button must not vanish under its own click.
        while len(self._rows) < len(self._waiting):
            self._rows.append(self._make_row(len(self._rows)))
        for number, (holder, label) in enumerate(self._rows):
            shown = number < len(self._waiting)
            holder.setVisible(shown)
            if shown:
                title = self._waiting[number].request.title
                label.setText(
                    self.tr("Waiting, number {number}: {title}").format(
                        number=number + 1, title=title
                    )
                )
        self.setVisible(bool(self._waiting))

    def _make_row(self, number: int) -> tuple[QWidget, QLabel]:
        holder = QWidget()
        row = QHBoxLayout(holder)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        label = QLabel()
        row.addWidget(label, 1)
        for name, text, tip in (
            ("queueUp", "↑", self.tr("Move waiting run {number} up")),
            ("queueDown", "↓", self.tr("Move waiting run {number} down")),
            ("queueRemove", "✕", self.tr("Take waiting run {number} out of the queue")),
        ):
            button = QToolButton()
            button.setObjectName(f"{name}_{number}")
            button.setText(text)
            button.setToolTip(tip.format(number=number + 1))
            button.setAccessibleName(button.toolTip())
            button.setProperty("number", number)
            button.setProperty("does", name)
            button.clicked.connect(self._on_button_clicked)
            row.addWidget(button)
        self._column.addWidget(holder)
        return holder, label

    @Slot()
    def _on_button_clicked(self) -> None:
        button = self.sender()
        if button is None or int(button.property("number")) >= len(self._waiting):
            return
        handle = self._waiting[int(button.property("number"))]
        does = button.property("does")
        if does == "queueRemove":
            handle.stop()
        else:
            self._jobs.move(handle, -1 if does == "queueUp" else 1)
