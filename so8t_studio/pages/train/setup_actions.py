"""The buttons around the settings: checks, load, save, show as command, dry run."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import msgspec
from PySide6.QtCore import QObject, QTimer, Signal, Slot
from PySide6.QtWidgets import QWidget

from so8t_engine.errors import So8tError
from so8t_engine.specs import TrainSpec, encode_spec, load_spec
from so8t_engine.workspace.atomic import write_bytes
from so8t_studio.context import AppContext
from so8t_studio.jobs.background import Failure, Loader
from so8t_studio.pages.train.checks import Check, last_pace, run_checks
from so8t_studio.pages.train.dialogs import ask_open, ask_save, show_command, write_spec
from so8t_studio.pages.train.dry_run import DryRun
from so8t_studio.pages.train.memory_plan import LengthCache, MemoryPlan, plan_memory
from so8t_studio.pages.train.setup_panel import SetupPanel
from so8t_studio.pages.train.spec_fields import build_spec, with_value

CHECK_DELAY_MS = 300


def with_changes(spec: TrainSpec, changes: dict[str, Any]) -> TrainSpec:
    """Return ``spec`` with dotted settings replaced.

    Raises:
        ValueError: if a value does not fit.
    """
    data = msgspec.to_builtins(spec)
    for path, value in changes.items():
        data = with_value(data, path, value)
    return build_spec(data)


class SetupActions(QObject):
    """``checked`` after new findings, ``failed(sentence)``, ``dry_run_failed(JobHandle)``."""

    checked = Signal()
    failed = Signal(str)
    dry_run_failed = Signal(object)

    def __init__(
        self,
        context: AppContext,
        panel: SetupPanel,
        arguments: Callable[[list[str]], list[str]],
        parent: QWidget,
    ) -> None:
        super().__init__(parent)
        self._context = context
        self._panel = panel
        self._arguments = arguments
        self._window = parent
        self._loader = Loader(self)
        self._lengths = LengthCache()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(CHECK_DELAY_MS)
        self._timer.timeout.connect(self._on_check_due)
        self.dry_run = DryRun(context, panel.memory, self)
        self.dry_run.failed.connect(self.dry_run_failed)
        panel.memory.dry_run_requested.connect(self._on_dry_run_requested)
        panel.command_requested.connect(self._on_command_requested)
        panel.load_requested.connect(self._on_load_requested)
        panel.save_requested.connect(self._on_save_requested)

    def base(self) -> str:
        """Return the persona's base model."""
        persona = self._context.persona
        try:
            return persona.info.base_model if persona is not None else "default"
        except So8tError:
            return "default"

    def spec(self) -> TrainSpec:
        """Return the settings as typed, with the persona's base model where none is named.

        Raises:
            ValueError: if a field is wrong.
        """
        spec = self._panel.form.spec()
        if spec.base_model == "default":
            spec = msgspec.structs.replace(spec, base_model=self.base())
        return spec

    def write(self) -> list[str]:
        """Keep settings and unsaved rows on disk; return the arguments that name the settings.

        Raises:
            ValueError: if a field is wrong.
            OSError, So8tError: if something cannot be written.
        """
        persona = self._context.persona
        assert persona is not None
        path = write_spec(persona, self.spec())
        if self._context.dataset.modified:
            self._context.dataset.save()
        return ["--spec", str(path)]

    # -- checks ---------------------------------------------------------------------------------
    def check_soon(self) -> None:
        """Look at everything again once the user pauses."""
        self._timer.start()

    @Slot()
    def _on_check_due(self) -> None:
        persona = self._context.persona
        if persona is None:
            return
        try:
            spec = self.spec()
        except ValueError:
            self.checked.emit()
            return
        samples = list(self._context.dataset.samples)
        reading, cache = self._context.telemetry.latest, self._lengths
        read_only = self._context.workspace.read_only

        def work() -> tuple[list[Check], MemoryPlan]:
            try:
                policy = spec.policy or persona.info.policy
            except So8tError:
                policy = spec.policy
            plan = plan_memory(
                samples, spec, base=spec.base_model, policy=policy, reading=reading, cache=cache
            )
            checks = run_checks(
                samples, spec, base=spec.base_model, folder=persona.runs_dir, reading=reading,
                read_only=read_only, persona=persona, plan=plan,
                pace=last_pace(persona.runs(), spec),
            )  # fmt: skip
            return checks, plan

        self._loader.load("checks", work, self._on_checks_ready)

    def _on_checks_ready(self, found: object) -> None:
        if isinstance(found, Failure):
            self._panel.show_checks([Check("internal", "warning", found.text)])
        elif isinstance(found, tuple):
            checks, plan = found
            self._panel.show_checks(checks)
            self._panel.memory.show_plan(plan)
        self.checked.emit()

    def reason_against_start(self) -> str:
        """Return why a run cannot start with these settings, empty if it can."""
        errors = self._panel.form.errors()
        if errors:
            path, sentence = next(iter(errors.items()))
            return f"{path}: {sentence}"
        for check in self._panel.checks():
            if check.level == "error":
                return f"{check.sentence} {check.next_step}".strip()
        return ""

    # -- slots ----------------------------------------------------------------------------------
    @Slot()
    def _on_dry_run_requested(self) -> None:
        try:
            arguments = self.write()
        except (ValueError, OSError, So8tError) as error:
            self.failed.emit(str(error))
            return
        self.dry_run.start(self._arguments([*arguments, "--dry-run", "--events"]))

    @Slot()
    def _on_command_requested(self) -> None:
        persona = self._context.persona
        assert persona is not None
        try:
            path = write_spec(persona, self.spec())
        except (ValueError, OSError) as error:
            self.failed.emit(str(error))
            return
        line = shlex.join(["so8t", *self._arguments(["--spec", str(path)])])
        show_command(self._window, line)

    @Slot()
    def _on_load_requested(self) -> None:
        path = ask_open(self._window)
        if path is None:
            return
        try:
            self._panel.load_spec(load_spec(path))
        except So8tError as error:
            self.failed.emit(str(error))

    @Slot()
    def _on_save_requested(self) -> None:
        path = ask_save(self._window)
        if path is None:
            return
        try:
            write_bytes(path, encode_spec(self._panel.form.spec()))
        except (ValueError, OSError) as error:
            self.failed.emit(str(error))
