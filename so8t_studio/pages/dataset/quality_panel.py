"""What is wrong with the data: counts that open the rows concerned, and fixes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from operator import is_

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.samples.duplicates import ScanCancelled
from so8t_engine.samples.quality import FIXABLE, Note, QualityReport, check
from so8t_engine.samples.schema import Sample
from so8t_studio.commands.dataset import push, rows_text
from so8t_studio.commands.fixes import fix_edit, fix_title
from so8t_studio.models.background import Reporter, Task
from so8t_studio.models.dataset_store import DatasetStore
from so8t_studio.pages.dataset.guard import may_touch_test, rows_of

_BY_ITSELF = 20_000
_SEVERE = frozenset(("conflict", "leak", "empty", "mojibake"))


class QualityPanel(QScrollArea):
    """Checks in the background when it is visible and the data changed."""

    query_requested = Signal(str)
    """A query that shows the rows of a finding."""
    issues_found = Signal()
    """A check ended; :meth:`issues` and :meth:`issue_counts` are new."""

    def __init__(self, store: DatasetStore, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._store = store
        self._report: QualityReport | None = None
        self._issues: dict[str, frozenset[str]] = {}
        self._checked: list[Sample] = []
        self._task: Task | None = None
        self._stale = True
        self.setObjectName("qualityPanel")
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        body = QWidget()
        body.setObjectName("scrollBody")
        self.setWidget(body)
        column = QVBoxLayout(body)
        column.setContentsMargins(4, 8, 10, 8)
        column.setSpacing(8)
        top = QHBoxLayout()
        self.state = QLabel()
        self.state.setObjectName("qualityState")
        self.state.setProperty("role", "muted")
        self.state.setWordWrap(True)
        top.addWidget(self.state, 1)
        self.check_button = QPushButton(self.tr("Check now"))
        self.check_button.setObjectName("qualityCheck")
        self.check_button.setAccessibleName(self.tr("Check the data now"))
        self.check_button.clicked.connect(self._on_check_clicked)
        top.addWidget(self.check_button, 0, Qt.AlignmentFlag.AlignTop)
        column.addLayout(top)
        self.progress = QProgressBar()
        self.progress.setObjectName("qualityProgress")
        self.progress.setAccessibleName(self.tr("Progress of the check"))
        self.progress.setTextVisible(False)
        self.progress.hide()
        column.addWidget(self.progress)
        self._cards = QVBoxLayout()
        self._cards.setSpacing(8)
        column.addLayout(self._cards)
        column.addStretch(1)
        self._describe()

    # What others read

    def issues(self) -> Mapping[str, frozenset[str]]:
        """Return kinds of problem by row, as of the last check."""
        return self._issues

    def issue_counts(self) -> Counter[str]:
        """Return rows per kind of problem, as of the last check."""
        if self._report is None:
            return Counter()
        return Counter({finding.kind: len(finding.ids) for finding in self._report.findings})

    def rank(self, query: str) -> dict[str, int]:
        """Return the group of each row that a query such as ``issue:conflict`` shows."""
        kind = query.strip().partition("issue:")[2]
        if self._report is None:
            return {}
        groups = next((f.groups for f in self._report.findings if f.kind == kind), ())
        return {one: number for number, group in enumerate(groups) for one in group}

    @property
    def report(self) -> QualityReport | None:
        """The last check."""
        return self._report

    def mark_stale(self) -> None:
        """The data may have changed; check again if it has and somebody looks."""
        samples = self._store.samples
        if len(samples) == len(self._checked) and all(map(is_, samples, self._checked)):
            return
        self._stale = True
        if self.isVisible() and self._task is None and len(self._store) <= _BY_ITSELF:
            self.run()
        else:
            self._describe()

    def run(self) -> None:
        """Check in the background."""
        self.stop()
        samples = list(self._store.samples)

        def work(reporter: Reporter) -> QualityReport:
            return check(samples, progress=reporter.progress, cancelled=reporter.cancelled)

        self._stale, self._checked = False, samples
        self._task = Task(work, self)
        self._task.progressed.connect(self._on_progressed)
        self._task.succeeded.connect(self._on_succeeded)
        self._task.failed.connect(self._on_failed)
        self.progress.setRange(0, 0)
        self.progress.show()
        self._task.start()
        self._describe()

    def stop(self) -> None:
        """End a check that is going on."""
        if self._task is not None:
            self._task.stop()
            self._task.deleteLater()
            self._task = None
            self.progress.hide()

    def showEvent(self, event: QShowEvent) -> None:
        """Check when the panel is first looked at."""
        super().showEvent(event)
        if self._stale and self._task is None and len(self._store):
            self.run()

    # Reactions

    @Slot()
    def _on_check_clicked(self) -> None:
        if self._task is not None:
            self._task.cancel()  # the panel hears of it when the work has ended
            self.check_button.setEnabled(False)
        else:
            self.run()

    @Slot(object)
    def _on_progressed(self, value: tuple[int, int]) -> None:
        done, total = value
        self.progress.setRange(0, max(total, 1))
        self.progress.setValue(done)

    @Slot(object)
    def _on_succeeded(self, report: QualityReport) -> None:
        self._end_task()
        self._report = report
        self._issues = report.issues()
        self._show_cards()
        self._describe()
        self.issues_found.emit()
        if self._stale and self.isVisible() and len(self._store) <= _BY_ITSELF:
            self.run()

    @Slot(object)
    def _on_failed(self, error: Exception) -> None:
        self._end_task()
        self._stale = True
        if isinstance(error, ScanCancelled):
            self._describe()
        else:
            self.state.setText(self.tr("The check failed: {error}.").format(error=error))

    def _end_task(self) -> None:
        if self._task is not None:
            self._task.deleteLater()
            self._task = None
        self.progress.hide()

    def _describe(self) -> None:
        running = self._task is not None
        self.check_button.setEnabled(True)
        self.check_button.setText(self.tr("Cancel") if running else self.tr("Check now"))
        if running:
            text = self.tr("Checking {rows}…").format(rows=rows_text(len(self._store)))
        elif self._report is None:
            text = self.tr("Not checked yet.")
        else:
            problems = len(self._report.findings) + len(self._report.notes)
            if problems:
                text = self.tr("{rows} checked.").format(rows=rows_text(self._report.rows))
            else:
                text = self.tr("{rows} checked, nothing to complain about.").format(
                    rows=rows_text(self._report.rows)
                )
            if self._stale:
                text += " " + self.tr("The data changed since.")
        self.state.setText(text)

    # Cards

    def _show_cards(self) -> None:
        while (item := self._cards.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.deleteLater()
        if self._report is None:
            return
        for finding in self._report.findings:
            words = self._words(finding.kind)
            count = rows_text(len(finding.ids))
            if finding.groups:
                count = self.tr("{rows} in {groups} groups").format(
                    rows=count, groups=f"{len(finding.groups):,}"
                )
            self._cards.addWidget(self._card(finding.kind, words, count, f"issue:{finding.kind}"))
        for kind in dict.fromkeys(note.kind for note in self._report.notes):
            notes = [note for note in self._report.notes if note.kind == kind]
            self._cards.addWidget(self._note_card(kind, notes))

    def _words(self, kind: str) -> str:
        titles = {
            "conflict": self.tr("Label conflicts"),
            "leak": self.tr("Near-duplicates across splits"),
            "duplicate": self.tr("Exact duplicates"),
            "near_duplicate": self.tr("Near-duplicates"),
            "empty": self.tr("Empty requests"),
            "short": self.tr("Very short requests"),
            "long": self.tr("Very long requests"),
            "control": self.tr("Invisible control characters"),
            "mojibake": self.tr("Garbled text (wrong encoding)"),
            "language": self.tr("Language does not match the text"),
            "no_rationale": self.tr("No rationale"),
            "personal": self.tr("Personal data (mail, phone, card)"),
            "imbalance": self.tr("Label imbalance"),
            "coverage": self.tr("One-sided categories"),
            "shortcut": self.tr("Shortcut words"),
        }
        return titles.get(kind, kind)

    def _card(self, kind: str, title: str, detail: str, query: str) -> QFrame:
        card = QFrame()
        card.setProperty("role", "card")
        card.setObjectName(f"finding_{kind}")
        column = QVBoxLayout(card)
        column.setContentsMargins(12, 8, 12, 8)
        column.setSpacing(4)
        sign = "▲ " if kind in _SEVERE else ""
        head = QLabel(sign + title)
        head.setProperty("role", "h3")
        head.setWordWrap(True)
        column.addWidget(head)
        words = QLabel(detail)
        words.setProperty("role", "muted")
        words.setWordWrap(True)
        words.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)
        column.addWidget(words)
        row = QHBoxLayout()
        if query:
            show = QPushButton(self.tr("Show rows"))
            show.setObjectName(f"show_{kind}")
            show.setAccessibleName(self.tr("Show rows: {title}").format(title=title))
            show.setProperty("query", query)
            show.clicked.connect(self._on_show_clicked)
            row.addWidget(show)
        if kind in FIXABLE and not self._store.read_only:
            fix = QPushButton(self._fix_words(kind))
            fix.setObjectName(f"fix_{kind}")
            fix.setAccessibleName(f"{title}: {fix.text()}")
            fix.setProperty("findingKind", kind)
            fix.clicked.connect(self._on_fix_clicked)
            row.addWidget(fix)
        row.addStretch(1)
        column.addLayout(row)
        return card

    def _note_card(self, kind: str, notes: Sequence[Note]) -> QFrame:
        """Return one card for all notes of a kind, a line with a button each."""
        explanations = {
            "imbalance": self.tr("The persona will lean towards the labels that it sees most."),
            "coverage": self.tr("The model may learn the topic instead of the danger."),
            "shortcut": self.tr(
                "These words or languages nearly give the label away; the model may learn the "
                "word instead of the meaning."
            ),
        }
        card = self._card(kind, self._words(kind), explanations.get(kind, ""), "")
        column = card.layout()
        assert isinstance(column, QVBoxLayout)
        for number, note in enumerate(notes):
            row = QHBoxLayout()
            words = QLabel(note.text)
            words.setWordWrap(True)
            row.addWidget(words, 1)
            show = QToolButton()
            show.setText(self.tr("Show"))
            show.setObjectName(f"note_{kind}_{number}")
            show.setAccessibleName(self.tr("Show rows: {title}").format(title=note.text))
            show.setProperty("query", note.query)
            show.clicked.connect(self._on_show_clicked)
            row.addWidget(show, 0, Qt.AlignmentFlag.AlignTop)
            column.addLayout(row)
        return card

    def _fix_words(self, kind: str) -> str:
        return {
            "duplicate": self.tr("Keep one of each"),
            "near_duplicate": self.tr("Keep one of each"),
            "conflict": self.tr("Use the strictest label"),
            "leak": self.tr("Move to train"),
            "empty": self.tr("Delete them"),
            "short": self.tr("Tag for review"),
            "long": self.tr("Tag for review"),
            "no_rationale": self.tr("Tag for review"),
            "control": self.tr("Remove them"),
            "mojibake": self.tr("Repair"),
            "language": self.tr("Set language"),
            "personal": self.tr("Tag rows"),
        }[kind]

    @Slot()
    def _on_show_clicked(self) -> None:
        button = self.sender()
        if isinstance(button, QAbstractButton):
            self.query_requested.emit(button.property("query"))

    @Slot()
    def _on_fix_clicked(self) -> None:
        button = self.sender()
        if not isinstance(button, QPushButton) or self._report is None:
            return
        kind = button.property("findingKind")
        finding = next((f for f in self._report.findings if f.kind == kind), None)
        if finding is None:
            return
        edit = fix_edit(self._store, kind, finding.ids, finding.groups)
        if edit.is_empty:
            self.state.setText(self._nothing_words(kind))
        elif may_touch_test(self, rows_of(edit)):
            push(self._store, fix_title(kind, edit), edit)

    def _nothing_words(self, kind: str) -> str:
        if kind in ("duplicate", "near_duplicate"):
            return self.tr("These rows have different labels; settle the label conflicts first.")
        if kind == "leak":
            return self.tr("Rows of the test split are concerned; move the others by hand.")
        return self.tr("There is nothing left to put right here.")
