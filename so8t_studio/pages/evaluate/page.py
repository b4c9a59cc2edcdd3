"""How well a run decides: figures with intervals, wrong rows, baselines, operating point."""

from __future__ import annotations

import datetime as dt
from functools import partial
from pathlib import Path

import msgspec
from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import (
    QComboBox,
    QFileDialog,
    QPushButton,
    QScrollArea,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.errors import So8tError
from so8t_engine.evaluation.choosing import Chosen, choose_point
from so8t_engine.evaluation.metrics import Metrics
from so8t_engine.evaluation.report import Scored, save_report
from so8t_engine.verdict import OperatingPoint
from so8t_engine.workspace.runs import RunStore
from so8t_studio.context import AppContext, RunChange
from so8t_studio.jobs.background import Failure, Loader
from so8t_studio.jobs.state import Phase
from so8t_studio.pages.base import Page
from so8t_studio.pages.evaluate.detail_tabs import DetailTabs
from so8t_studio.pages.evaluate.figures import HeadlineTiles, OtherFigures
from so8t_studio.pages.evaluate.job_bar import JobBar, JobOutcome
from so8t_studio.pages.evaluate.loading import (
    Details,
    RunEntry,
    details,
    list_entries,
    open_evaluation,
)
from so8t_studio.pages.evaluate.point_panel import PointPanel
from so8t_studio.pages.evaluate.start_menu import EvaluationWish, StartMenu
from so8t_studio.widgets.banner import Banner
from so8t_studio.widgets.empty_state import EmptyState
from so8t_studio.widgets.side_by_side import SideBySide


class EvaluatePage(Page):
    """Pick a run and one of its evaluations, or make a new one."""

    key = "evaluate"

    def __init__(self, context: AppContext, parent: QWidget | None = None) -> None:
        super().__init__(context, parent)
        self._loader = Loader(self)
        self._entries: list[RunEntry] = []
        self._scored: Scored | None = None
        self._baselines: dict[str, Metrics] = {}
        self._wanted: tuple[str, str] = ("", "")
        self._open_key: tuple[str, str, float] | None = None
        self._pending = ""
        self._stale = True
        self._build()
        context.persona_changed.connect(self._on_persona_changed)
        context.persona_edited.connect(self._on_persona_edited)
        context.runs_changed.connect(self._on_runs_changed)

    def title(self) -> str:
        """Return the name of the page."""
        return self.tr("Evaluate")

    # -- construction ---------------------------------------------------------------------------
    def _build(self) -> None:
        self.runs = self._choice("runChoice", self.tr("Run"), self.tr("The run to evaluate."), 266)
        self.runs.activated.connect(self._on_run_activated)
        self.evaluations = self._choice(
            "evaluationChoice", self.tr("Evaluation"), self.tr("The stored result to show."), 130
        )
        self.evaluations.activated.connect(self._on_evaluation_activated)
        self.report = QPushButton(self.tr("Report…"))
        self.report.setObjectName("exportReport")
        self.report.setAccessibleName(self.tr("Export this evaluation as a report"))
        self.report.setToolTip(self.tr("Write Markdown for people or JSON for programs."))
        self.report.clicked.connect(self._on_report_clicked)
        self.header.add_action(self.report)
        self.start = QPushButton()
        self.start.setObjectName("startEvaluation")
        self.start.setText(self.tr("Evaluate"))
        self.start.setAccessibleName(self.tr("Evaluate"))
        self.start.setToolTip(self.tr("Measure the chosen run on rows with known labels."))
        self.start.setProperty("kind", "primary")
        menu = StartMenu(self)
        menu.wished.connect(self._on_evaluation_wished)
        self.start.setMenu(menu)
        self.header.add_action(self.start)
        self.banner = Banner(dismissible=True)
        self.body.addWidget(self.banner)
        self.job_bar = JobBar(self.context.jobs)
        self.job_bar.finished.connect(self._on_job_finished)
        self.job_bar.active_changed.connect(self._on_job_active_changed)
        self.body.addWidget(self.job_bar)
        self.stack = QStackedWidget()
        self.empty = EmptyState("evaluate", "", "")
        self.empty.action_triggered.connect(self._on_empty_action)
        self._empty_target = ""
        self.stack.addWidget(self.empty)
        self.stack.addWidget(self._build_content())
        self.body.addWidget(self.stack, 1)

    def _choice(self, name: str, title: str, tip: str, width: int) -> QComboBox:
        box = QComboBox()
        box.setObjectName(name)
        box.setAccessibleName(title)
        box.setToolTip(tip)
        box.setMinimumWidth(width)
        self.header.add_action(box)
        return box

    def _build_content(self) -> QWidget:
        content = QWidget()
        content.setObjectName("scrollBody")
        column = QVBoxLayout(content)
        column.setContentsMargins(0, 0, 4, 0)
        column.setSpacing(12)
        self.tiles = HeadlineTiles()
        column.addWidget(self.tiles)
        self.figures = OtherFigures()
        self.figures.setMinimumHeight(268)
        self.point = PointPanel()
        self.point.setMinimumHeight(232)
        self.point.point_changed.connect(self._on_point_changed)
        self.point.find_requested.connect(self._on_find_point_requested)
        self.point.save_requested.connect(self._on_save_point_requested)
        column.addWidget(SideBySide(self.figures, self.point, side_width=380, stack_below=860))
        self.tabs = DetailTabs()
        self.tabs.setMinimumHeight(280)
        self.tabs.sample_requested.connect(self._on_sample_requested)
        column.addWidget(self.tabs, 1)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setWidget(content)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        return area

    # -- what to show ---------------------------------------------------------------------------
    def on_shown(self) -> None:
        """Refresh if anything changed while hidden."""
        if self._stale:
            self._reload()

    def open_payload(self, payload: object) -> None:
        """Show a run (session id), or start its evaluation for ``("start", data)``."""
        if isinstance(payload, tuple) and len(payload) == 2 and payload[0] == "start":
            self._pending = str(payload[1])
            self._reload()
        elif isinstance(payload, str) and payload:
            self._wanted = (payload, "")
            self._reload()

    @Slot(object)
    def _on_persona_changed(self, _persona: object) -> None:
        self._wanted = ("", "")
        self._scored, self._open_key = None, None
        self._changed()

    @Slot(object)
    def _on_persona_edited(self, _persona: object) -> None:
        self._show_saved_point()

    @Slot(object)
    def _on_runs_changed(self, _change: RunChange) -> None:
        self._changed()

    def _changed(self) -> None:
        self._stale = True
        if self.isVisible():
            self._reload()

    def _reload(self) -> None:
        self._stale = False
        persona = self.context.persona
        if persona is None:
            self._entries = []
            self._show_empty(
                self.tr("No persona is open"),
                self.tr("Open a persona first."),
                self.tr("Go to Persona"),
                "persona",
            )
            return
        self._loader.load("entries", partial(list_entries, persona), self._take_entries)

    def _take_entries(self, value: object) -> None:
        if isinstance(value, Failure):
            self.banner.show_message("error", value.text, details=value.details)
            return
        assert isinstance(value, list)
        self._entries = value
        run_id = self._wanted[0] or str(self.runs.currentData() or "")
        entry = self._entry(run_id) or (value[0] if value else None)
        self._fill(self.runs, [(f"{e.id}  ·  {e.name}", e.id) for e in value], entry and entry.id)
        if entry is None:
            self._show_empty(
                self.tr("Nothing to evaluate yet"),
                self.tr("A run can be evaluated as soon as it has saved a checkpoint."),
                self.tr("Go to Train"),
                "train",
            )
            return
        self._show_entry(entry)
        if self._pending and not self.job_bar.active:
            data, self._pending = self._pending, ""
            self.start_evaluation(data)

    def _entry(self, run_id: str) -> RunEntry | None:
        return next((entry for entry in self._entries if entry.id == run_id), None)

    @staticmethod
    def _fill(box: QComboBox, items: list[tuple[str, str]], current: str | None) -> None:
        box.blockSignals(True)
        box.clear()
        for text, data in items:
            box.addItem(text.removesuffix("  ·  "), data)
        box.setCurrentIndex(box.findData(current))
        box.blockSignals(False)

    def _show_entry(self, entry: RunEntry) -> None:
        kept = self._wanted[1]
        if not kept and self._open_key is not None and self._open_key[0] == entry.id:
            kept = self._open_key[1]
        self._wanted = ("", "")
        names = entry.evaluations
        chosen = kept if kept in names else (names[0] if names else "")
        self._fill(self.evaluations, [(name, name) for name in names], chosen)
        if not chosen:
            self._scored, self._open_key = None, None
            self._show_empty(
                self.tr("This run has not been evaluated"),
                self.tr(
                    "Measure it on the rows that were held out from training. It takes a minute "
                    "or two on a CPU."
                ),
                self.tr("Evaluate on validation"),
                "start",
            )
            return
        run = self._run(entry.id)
        if run is None:
            return
        path = run.evaluations_dir / f"{chosen}.json"
        try:
            key = (entry.id, chosen, path.stat().st_mtime)
        except OSError:
            key = (entry.id, chosen, 0.0)
        if key == self._open_key and self._scored is not None:
            self._show_page()
            return
        self._open_key = key
        self._loader.load("open", partial(open_evaluation, path), self._take_scored)

    def _run(self, run_id: str) -> RunStore | None:
        persona = self.context.persona
        return RunStore(persona.runs_dir / run_id) if persona and run_id else None

    @Slot(int)
    def _on_run_activated(self, index: int) -> None:
        entry = self._entry(str(self.runs.itemData(index)))
        if entry is not None:
            self._show_entry(entry)

    @Slot(int)
    def _on_evaluation_activated(self, index: int) -> None:
        self._wanted = (str(self.runs.currentData()), str(self.evaluations.itemData(index)))
        entry = self._entry(self._wanted[0])
        if entry is not None:
            self._show_entry(entry)

    def _take_scored(self, value: object) -> None:
        if isinstance(value, Failure):
            self._scored, self._open_key = None, None
            self.banner.show_message("error", value.text, details=value.details)
            self._show_empty(
                self.tr("This evaluation cannot be read"),
                self.tr("Evaluate again; the file is then replaced."),
                self.tr("Evaluate on validation"),
                "start",
            )
            return
        assert isinstance(value, Scored)
        self._loader.cancel("point")  # it was sought on other rows
        self._scored = value
        self._baselines = value.baselines()
        self._show_saved_point()
        self.point.set_point(self._saved_point())
        self._on_point_changed(self.point.point)
        self._show_page()

    def _show_page(self) -> None:
        assert self._scored is not None
        evaluation = self._scored.evaluation
        made = dt.datetime.fromtimestamp(evaluation.created).strftime("%Y-%m-%d %H:%M")
        model = (
            self.tr("base model, untrained")
            if evaluation.run == "base"
            else self.tr("best checkpoint {name}").format(name=evaluation.checkpoint)
        )
        self.header.set_subtitle(
            self.tr("{count} samples, {model}, {made}").format(
                count=len(evaluation.rows), model=model, made=made
            )
        )
        for widget in (self.runs, self.evaluations, self.report):
            widget.show()
        self.stack.setCurrentIndex(1)
        self._enable_start()

    def _show_empty(self, title: str, text: str, button: str, target: str = "") -> None:
        self._empty_target = target
        self.empty.set_content(title, text, button)
        self.stack.setCurrentWidget(self.empty)
        self.header.set_subtitle("")
        self.runs.setVisible(bool(self._entries))
        self.evaluations.setVisible(self.evaluations.count() > 0 and bool(self._entries))
        self.report.hide()
        self._enable_start()

    def _enable_start(self) -> None:
        self.start.setVisible(bool(self._entries))
        self.start.setEnabled(bool(self._entries) and not self.job_bar.active)
        self.empty.button.setEnabled(self._empty_target != "start" or not self.job_bar.active)

    @Slot()
    def _on_empty_action(self) -> None:
        if self._empty_target == "start":
            self.start_evaluation("validation")
        else:
            self.context.navigate(self._empty_target)

    # -- operating point ------------------------------------------------------------------------
    def _saved_point(self) -> OperatingPoint:
        persona = self.context.persona
        try:
            return persona.info.point if persona is not None else OperatingPoint()
        except So8tError:
            return OperatingPoint()

    def _show_saved_point(self) -> None:
        writable = not self.context.workspace.read_only
        self.point.set_saved(self._saved_point(), writable=writable)

    @Slot(object)
    def _on_point_changed(self, point: OperatingPoint) -> None:
        if self._scored is None:
            return
        metrics = self._scored.metrics(point)
        self.tiles.set_metrics(metrics)
        self.figures.set_metrics(metrics)
        self.tabs.set_baselines(metrics, self._baselines)
        self._loader.load("details", partial(details, self._scored, point), self._take_details)

    def _take_details(self, value: object) -> None:
        if isinstance(value, Details):
            self.tabs.set_details(value)
        elif isinstance(value, Failure):
            self.banner.show_message("error", value.text, details=value.details)

    @Slot(float)
    def _on_find_point_requested(self, bound: float) -> None:
        if self._scored is None:
            return
        search = partial(
            choose_point,
            self._scored.logits,
            self._scored.labels,
            bound,
            self.point.point.temperature,
        )
        self._loader.load("point", search, self._take_point)

    def _take_point(self, value: object) -> None:
        if isinstance(value, Chosen):
            self.point.set_point(value.point)
            self._on_point_changed(value.point)
        elif isinstance(value, Failure):
            self.banner.show_message("error", value.text, details=value.details)
        else:
            self.banner.show_message(
                "warning",
                self.tr(
                    "No thresholds keep to this bound, or none of these rows is labelled REFUSE."
                ),
            )

    @Slot()
    def _on_save_point_requested(self) -> None:
        persona = self.context.persona
        if persona is None:
            return
        try:
            persona.save(msgspec.structs.replace(persona.info, point=self.point.point))
        except (So8tError, OSError) as error:
            self.banner.show_message("error", str(error))
            return
        self._show_saved_point()
        self.context.persona_edited.emit(persona)
        self.context.post("success", self.tr("The persona now decides at this operating point."))

    # -- jobs -----------------------------------------------------------------------------------
    @Slot(object)
    def _on_evaluation_wished(self, wish: EvaluationWish) -> None:
        self.start_evaluation(wish.data, arm=wish.arm)

    def start_evaluation(self, data: str, *, arm: str = "trained") -> None:
        """Measure the chosen run on ``validation``, ``test`` or a file."""
        persona = self.context.persona
        entry = self._entry(str(self.runs.currentData() or ""))
        if persona is None or entry is None:
            self._wanted = ("", "")
            self._reload()
            return
        self.banner.clear()
        args = ["eval", "--workspace", str(self.context.workspace.root)]
        args += ["--persona", persona.slug, "--run", entry.id, "--data", data]
        args += ["--arm", arm, "--events"]
        names = {"validation": self.tr("validation split"), "test": self.tr("test split")}
        self.job_bar.start(
            args,
            title=self.tr("Evaluate {run} on {data}").format(
                run=entry.id, data=names.get(data, Path(data).name)
            ),
            run_dir=persona.runs_dir / entry.id,
            persona=persona.slug,
        )

    @Slot(bool)
    def _on_job_active_changed(self, _active: bool) -> None:
        self._enable_start()

    @Slot(object)
    def _on_job_finished(self, outcome: JobOutcome) -> None:
        path, state, warnings = outcome.path, outcome.state, outcome.warnings
        if path is not None:
            run_id = path.parent.parent.name
            self._wanted = (run_id, path.stem)
            self.context.runs_changed.emit(RunChange(run_id, "moved"))
            self._changed()
            if warnings:
                self.banner.show_message("warning", warnings[0], details="\n".join(warnings))
        elif state.phase in (Phase.FAILED, Phase.CRASHED):
            words = " ".join(part for part in (state.sentence, state.next_step) if part)
            self.banner.show_message("error", words, details=state.details)

    # -- leaving --------------------------------------------------------------------------------
    @Slot(str)
    def _on_sample_requested(self, sample_id: str) -> None:
        if self.context.dataset.sample(sample_id) is None:
            self.banner.show_message(
                "info",
                self.tr("This row is not in the persona's dataset; it comes from a test file."),
            )
            return
        self.context.navigate("dataset", f"id:{sample_id}")

    @Slot()
    def _on_report_clicked(self) -> None:
        if self._scored is None:
            return
        evaluation = self._scored.evaluation
        name = f"report_{evaluation.run}_{evaluation.name}.md"
        chosen, _filter = QFileDialog.getSaveFileName(
            self,
            self.tr("Export report"),
            str(Path.home() / name),
            self.tr("Markdown (*.md);;JSON (*.json)"),
        )
        if chosen:
            out = Path(chosen)
            self.export_report(out if out.suffix else out.with_suffix(".md"))

    def export_report(self, out: Path) -> None:
        """Write what is shown, at the operating point of the fields, off the GUI thread."""
        persona = self.context.persona
        if self._scored is None or persona is None:
            return
        work = partial(save_report, out, self._scored, self.point.point, persona=persona.name)
        self._loader.load("report", work, partial(self._take_report, out))

    def _take_report(self, out: Path, value: object) -> None:
        if isinstance(value, Failure):
            self.banner.show_message("error", value.text, details=value.details)
        else:
            self.banner.show_message(
                "success", self.tr("The report is saved in {path}.").format(path=out)
            )
