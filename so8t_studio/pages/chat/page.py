"""Try the persona: the verdict with its probabilities, the reply, before and after training."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial

from PySide6.QtCore import QRect, Qt, QTimer, Slot
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import (
    QComboBox,
    QLabel,
    QPushButton,
    QScrollArea,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.errors import So8tError
from so8t_engine.samples.schema import Sample
from so8t_engine.workspace.personas import Persona
from so8t_studio.commands.dataset import add_sample, push
from so8t_studio.context import AppContext, RunChange
from so8t_studio.jobs.background import Failure, Loader
from so8t_studio.jobs.state import JobState
from so8t_studio.models.sample_list import Edit
from so8t_studio.pages.base import Page
from so8t_studio.pages.chat.composer import Composer
from so8t_studio.pages.chat.correction import CorrectionDialog
from so8t_studio.pages.chat.exchange_card import ExchangeCard
from so8t_studio.pages.chat.log import note_exchange
from so8t_studio.pages.chat.session import BASE, TRAINED, ChatSession, Exchange, ModelState
from so8t_studio.pages.chat.welcome import Welcome
from so8t_studio.widgets.banner import Banner

HISTORY = 100


@dataclass(frozen=True)
class RunItem:
    """A run that can answer."""

    id: str
    name: str


def list_trained(persona: Persona) -> list[RunItem]:
    """Return the runs with a complete checkpoint, newest first (no Qt)."""
    items = []
    for run in persona.runs():
        if run.best_checkpoint() is None:
            continue
        try:
            items.append(RunItem(run.id, run.spec().name))
        except So8tError:
            items.append(RunItem(run.id, ""))
    return items


class ChatPage(Page):
    """Session history on top, composer below, model state in the header."""

    key = "chat"

    def __init__(self, context: AppContext, parent: QWidget | None = None) -> None:
        super().__init__(context, parent)
        self._loader = Loader(self)
        self._runs: list[RunItem] = []
        self._cards: dict[str, ExchangeCard] = {}
        self._stale = True
        self._banner_saves = False
        self._wanted_run = ""
        self._runs_known = False
        self._send_when_known = False
        self.session = ChatSession(context.jobs, self)
        self.session.state_changed.connect(self._on_model_state_changed)
        self.session.exchange_changed.connect(self._on_exchange_changed)
        self.session.exchange_finished.connect(self._on_exchange_finished)
        self.session.failed.connect(self._on_model_failed)
        self._build()
        context.persona_changed.connect(self._on_persona_changed)
        context.runs_changed.connect(self._on_runs_changed)
        self._on_model_state_changed(ModelState.UNLOADED)

    def title(self) -> str:
        """Return the name of the page."""
        return self.tr("Chat")

    # -- construction ---------------------------------------------------------------------------
    def _build(self) -> None:
        self.model_state = QLabel()
        self.model_state.setObjectName("modelState")
        self.model_state.setProperty("role", "muted")
        self.header.add_action(self.model_state)
        self.runs = QComboBox()
        self.runs.setObjectName("runChoice")
        self.runs.setAccessibleName(self.tr("Run"))
        self.runs.setToolTip(self.tr("The run that answers."))
        self.runs.setMinimumWidth(270)
        self.runs.activated.connect(self._on_run_activated)
        self.header.add_action(self.runs)
        self.load = QPushButton()
        self.load.setObjectName("loadModel")
        self.load.clicked.connect(self._on_load_clicked)
        self.header.add_action(self.load)
        self.banner = Banner(dismissible=True)
        self.banner.action_triggered.connect(self._on_banner_action)
        self.body.addWidget(self.banner)
        self.stack = QStackedWidget()
        self.welcome = Welcome()
        self.welcome.example_chosen.connect(self._on_example_chosen)
        self.stack.addWidget(self.welcome)
        self.scroll = QScrollArea()
        self.scroll.setObjectName("chatHistory")
        self.scroll.setAccessibleName(self.tr("Requests and answers of this session"))
        self.scroll.setWidgetResizable(True)
        holder = QWidget()
        holder.setObjectName("scrollBody")
        self._column = QVBoxLayout(holder)
        self._column.setContentsMargins(0, 0, 4, 0)
        self._column.setSpacing(12)
        self._column.addStretch(1)
        self.scroll.setWidget(holder)
        self.scroll.verticalScrollBar().rangeChanged.connect(self._on_range_changed)
        self._follow = True
        self.stack.addWidget(self.scroll)
        self.body.addWidget(self.stack, 1)
        self.composer = Composer()
        self.composer.send_requested.connect(self._on_send_requested)
        self.composer.stop_requested.connect(self.session.cancel)
        self.body.addWidget(self.composer)
        escape = QShortcut(QKeySequence(Qt.Key.Key_Escape), self)
        escape.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        escape.activated.connect(self.session.cancel)

    # -- persona and runs -----------------------------------------------------------------------
    def on_shown(self) -> None:
        """Refresh if anything changed while hidden; typing can start at once."""
        if self._stale:
            self._reload()
        self.composer.request.setFocus()

    def open_payload(self, payload: object) -> None:
        """Choose the run (session id) that answers."""
        if isinstance(payload, str) and payload:
            self._wanted_run = payload
            self._reload()

    def can_close(self) -> bool:
        """The model is unloaded with the window; nothing is lost."""
        self.session.unload()
        return True

    @Slot(object)
    def _on_persona_changed(self, _persona: object) -> None:
        self.session.unload()
        self._wanted_run = ""
        self._send_when_known = False
        self.runs.clear()
        for card in self._cards.values():
            self._column.removeWidget(card)
            card.deleteLater()
        self._cards.clear()
        self.stack.setCurrentWidget(self.welcome)
        self.banner.clear()
        self._changed()

    @Slot(object)
    def _on_runs_changed(self, change: RunChange) -> None:
        if change.reason != "moved":
            self._changed()

    def _changed(self) -> None:
        self._stale = True
        if self.isVisible():
            self._reload()

    def _reload(self) -> None:
        self._stale = False
        persona = self.context.persona
        self.composer.setEnabled(persona is not None)
        self._runs_known = persona is None
        if persona is None:
            self._runs = []
            self._show_runs("")
            return
        self._loader.load("runs", partial(list_trained, persona), self._take_runs)

    def _take_runs(self, value: object) -> None:
        self._runs_known = True
        asked, self._send_when_known = self._send_when_known, False
        if isinstance(value, Failure):
            self.banner.show_message("error", value.text, details=value.details)
            return
        assert isinstance(value, list)
        self._runs = value
        self._show_runs(self._wanted_run or str(self.runs.currentData() or ""))
        self._wanted_run = ""
        if asked:
            self._on_send_requested()

    def _show_runs(self, current: str) -> None:
        self.runs.blockSignals(True)
        self.runs.clear()
        for item in self._runs:
            self.runs.addItem(f"{item.id}  ·  {item.name}".removesuffix("  ·  "), item.id)
        if not self._runs:
            self.runs.addItem(self.tr("Base model only"), "")
        self.runs.setCurrentIndex(max(0, self.runs.findData(current)))
        self.runs.blockSignals(False)
        self.runs.setEnabled(bool(self._runs))
        self.composer.set_trained(bool(self._runs))
        self.welcome.set_trained(bool(self._runs))
        self.welcome.set_persona(self.context.persona is not None)
        self._on_model_state_changed(self.session.state)

    @property
    def run_id(self) -> str:
        """The run that answers; empty for the base model alone."""
        return str(self.runs.currentData() or "")

    @Slot(int)
    def _on_run_activated(self, _index: int) -> None:
        if self.session.loaded and self.session.run_id != self.run_id:
            self._load()

    # -- model ----------------------------------------------------------------------------------
    def _load(self) -> None:
        persona = self.context.persona
        if persona is not None:
            self.banner.clear()
            self.session.load(self.context.workspace.root, persona.slug, self.run_id)

    @Slot()
    def _on_load_clicked(self) -> None:
        if self.session.loaded:
            self.session.unload()
        else:
            self._load()

    @Slot(object)
    def _on_model_state_changed(self, state: ModelState) -> None:
        words = {
            ModelState.UNLOADED: self.session.note or self.tr("Model not loaded"),
            ModelState.WAITING: self.tr("Waiting for another job"),
            ModelState.LOADING: self.tr("Loading the model…"),
            ModelState.READY: self.tr("Model ready"),
            ModelState.ANSWERING: self.tr("Answering…"),
            ModelState.UNLOADING: self.tr("Unloading…"),
        }
        text = words[state]
        if state is ModelState.ANSWERING and self.session.loading_arm == BASE:
            text = self.tr("Loading the base model…")
        self.model_state.setText(text)
        loaded = self.session.loaded
        self.load.setText(self.tr("Unload") if loaded else self.tr("Load model"))
        self.load.setAccessibleName(
            self.tr("Unload the model") if loaded else self.tr("Load the model")
        )
        self.load.setToolTip(
            self.tr("Give the memory back.")
            if loaded
            else self.tr("Load it now; sending a request does so as well.")
        )
        self.load.setEnabled(state is not ModelState.UNLOADING and self.context.persona is not None)
        self.composer.set_answering(self.session.current is not None)

    @Slot(object)
    def _on_model_failed(self, state: JobState) -> None:
        self._banner_saves = False
        words = " ".join(part for part in (state.sentence, state.next_step) if part)
        self.banner.show_message("error", words, details=state.details)

    # -- questions ------------------------------------------------------------------------------
    @Slot(str)
    def _on_example_chosen(self, text: str) -> None:
        self.composer.set_request(text)
        self._on_send_requested()

    @Slot()
    def _on_send_requested(self) -> None:
        if self.session.current is not None or self.context.persona is None:
            return
        if not self._runs_known:  # who answers is being read; the text waits in its field
            self._send_when_known = True
            return
        request, situation = self.composer.take()
        if not request:
            return
        if not self.session.loaded or self.session.run_id != self.run_id:
            self._load()
        trained = bool(self._runs)
        arms = (BASE, TRAINED) if self.composer.compare.isChecked() else (TRAINED,)
        exchange = self.session.ask(
            request,
            situation,
            arms=arms if trained else (BASE,),
            strength=self.composer.strength_value if trained else 1.0,
            run_id=self.run_id,
        )
        self._add_card(exchange)
        self.composer.set_answering(True)

    def _add_card(self, exchange: Exchange) -> None:
        card = ExchangeCard(exchange)
        card.correction_requested.connect(self._on_correction_requested)
        self._cards[exchange.id] = card
        self._column.insertWidget(self._column.count() - 1, card)
        while len(self._cards) > HISTORY:
            oldest = self._cards.pop(next(iter(self._cards)))
            self._column.removeWidget(oldest)
            oldest.deleteLater()
        self._follow = True
        self.stack.setCurrentWidget(self.scroll)

    @Slot(int, int)
    def _on_range_changed(self, _low: int, high: int) -> None:
        if self._follow:
            self.scroll.verticalScrollBar().setValue(high)

    @Slot(object)
    def _on_exchange_changed(self, exchange: Exchange) -> None:
        bar = self.scroll.verticalScrollBar()
        self._follow = bar.value() >= bar.maximum() - 40
        card = self._cards.get(exchange.id)
        if card is not None:
            card.show_exchange()

    @Slot(object)
    def _on_exchange_finished(self, exchange: Exchange) -> None:
        self.composer.set_answering(self.session.current is not None)
        persona = self.context.persona
        card = self._cards.get(exchange.id)
        if card is not None and self._follow:
            QTimer.singleShot(0, card, partial(self._reveal, card))
        if persona is None or self.context.workspace.read_only or exchange.cancelled:
            return
        if not exchange.run_id or exchange.answers[exchange.arms[-1]].verdict is None:
            return
        work = partial(note_exchange, persona.runs_dir / exchange.run_id, exchange)
        self._loader.load(f"note {exchange.id}", work, partial(self._take_note, exchange.run_id))

    def _reveal(self, card: ExchangeCard) -> None:
        rect = QRect(card.pos(), card.size())
        self.scroll.ensureVisible(rect.center().x(), rect.bottom(), 0, 0)

    def _take_note(self, run_id: str, value: object) -> None:
        if isinstance(value, Failure):
            self.banner.show_message("warning", value.text, details=value.details)
        else:
            self.context.runs_changed.emit(RunChange(run_id, "moved"))

    # -- correction -----------------------------------------------------------------------------
    def _known(self, exchange: Exchange) -> Sample | None:
        wanted = (exchange.request.strip(), exchange.context.strip())
        return next(
            (
                sample
                for sample in self.context.dataset.samples
                if (sample.request.strip(), sample.context.strip()) == wanted
            ),
            None,
        )

    @Slot(object)
    def _on_correction_requested(self, exchange: Exchange) -> None:
        counts = Counter(sample.category for sample in self.context.dataset.samples)
        categories = [name for name, _count in counts.most_common() if name]
        dialog = CorrectionDialog(exchange, categories, self)
        dialog.accepted.connect(partial(self._take_correction, dialog, exchange))
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _take_correction(self, dialog: CorrectionDialog, exchange: Exchange) -> None:
        store = self.context.dataset
        if store.read_only:
            self.banner.show_message(
                "warning", self.tr("This window only reads, so the correction was not added.")
            )
            return
        known = self._known(exchange)
        sample = dialog.sample(known)
        if known is None:
            add_sample(store, sample)
            words = self.tr("Added to the dataset as {label}.")
        elif sample != known:
            title = self.tr("Correct a row to {label}").format(label=sample.label.value)
            push(store, title, Edit(changed=((known, sample),)))
            words = self.tr("The row with this request is now {label} in the dataset.")
        else:
            words = self.tr("The dataset already says {label}; nothing was changed.")
        text = words.format(label=sample.label.value)
        card = self._cards.get(exchange.id)
        if card is not None:
            card.show_note(f"✓ {text}")
        if store.modified:
            self._banner_saves = True
            self.banner.show_message(
                "info",
                self.tr("{text} It is not saved yet; the next training learns from it.").format(
                    text=text
                ),
                action=self.tr("Save dataset"),
            )

    @Slot()
    def _on_banner_action(self) -> None:
        if not self._banner_saves:
            return
        self._banner_saves = False
        try:
            self.context.dataset.save()
        except (So8tError, OSError) as error:
            self.banner.show_message("error", str(error))
            return
        self.banner.show_message("success", self.tr("The dataset is saved."))
