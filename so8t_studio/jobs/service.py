"""All jobs of this window: queue, one place for heavy jobs, nothing left behind."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import logging
import time
from pathlib import Path

import platformdirs
from PySide6.QtCore import QCoreApplication, QObject, Qt, QTimer, Signal, Slot

from so8t_engine.workspace.runs import RunState, RunStore
from so8t_studio.jobs.attached import AttachedWorker
from so8t_studio.jobs.handle import JobHandle
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.state import JobState, Phase, phase_of, phase_sentence
from so8t_studio.jobs.supervisor import Supervisor
from so8t_studio.jobs.worker import JobWorker, Patience

log = logging.getLogger(__name__)
KEEP_LOGS = 40
KEEP_FINISHED = 50


class JobService(QObject):
    """Starts jobs and keeps their handles.

    At most one job with ``needs_gpu`` runs; further ones wait in order. Signals:
    ``job_added(JobHandle)``, ``job_changed(JobHandle)`` on every state, ``job_ended(JobHandle)``,
    ``queue_changed()``, ``became_idle()`` when the last process is gone.
    """

    job_added = Signal(object)
    job_changed = Signal(object)
    job_ended = Signal(object)
    queue_changed = Signal()
    became_idle = Signal()

    def __init__(
        self,
        log_dir: Path | None = None,
        patience: Patience | None = None,
        command: list[str] | None = None,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self.log_dir = log_dir or Path(platformdirs.user_log_dir("so8t", appauthor=False)) / "jobs"
        self.patience = patience or Patience()
        self._command = command
        self.handles: list[JobHandle] = []
        self._queue: list[JobHandle] = []
        self._workers: dict[Supervisor, JobHandle] = {}
        self._keep_running = False
        self._numbers = itertools.count(1)
        self._accepting = True
        self._prune_logs()

    # -- starting -------------------------------------------------------------------------------
    def start(self, request: JobRequest) -> JobHandle:
        """Start a job, or queue it if it needs the place that another job holds."""
        if self._command is not None and not request.command:
            request = dataclasses.replace(request, command=self._command)
        handle = JobHandle(request, self)
        handle.state_changed.connect(self._on_handle_state_changed)
        self.handles.append(handle)
        self._queue.append(handle)
        self.job_added.emit(handle)
        # Handlers are connected by the caller first; the process starts from the event loop.
        QTimer.singleShot(0, self, self._on_pump_due)
        return handle

    def attach(self, request: JobRequest, run: RunStore, found: RunState) -> JobHandle:
        """Follow a run that goes on already; it holds the place for heavy jobs like any other."""
        phase = phase_of(found.state)
        handle = JobHandle(request, self)
        handle.state = JobState(
            phase, phase_sentence(phase), pid=found.pid, run_dir=run.root, adopted=True
        )
        handle.state_changed.connect(self._on_handle_state_changed)
        self.handles.append(handle)
        self._take(AttachedWorker(request, run, found, self.patience), handle)
        if found.started:
            handle.started_mono = time.monotonic() - max(0.0, time.time() - found.started)
        self.job_added.emit(handle)
        return handle

    @Slot()
    def _on_pump_due(self) -> None:
        self._pump()

    def _pump(self) -> None:
        for handle in list(self._queue):
            if handle.state.is_final:
                self._queue.remove(handle)
            elif self._accepting and not (handle.request.needs_gpu and self.lease_holder()):
                self._queue.remove(handle)
                self._launch(handle)
        self.queue_changed.emit()

    def _launch(self, handle: JobHandle) -> None:
        stamp = dt.datetime.now().strftime("%Y%m%d_%H%M%S")
        name = f"{stamp}-{next(self._numbers):04d}-{handle.request.kind}.log"
        patience = self.patience
        if handle.request.kind in ("chat", "monitor"):
            patience = dataclasses.replace(patience, silence=0.0)
        handle.set_state(dataclasses.replace(handle.state, phase=Phase.STARTING))
        self._take(JobWorker(handle.request, self.log_dir / name, patience), handle)
        if self._keep_running and handle.request.kind == "train":
            handle.send({"cmd": "detach"})

    def _take(self, worker: Supervisor, handle: JobHandle) -> None:
        self._workers[worker] = handle
        handle.attach(worker)
        worker.finished.connect(self._on_worker_finished, Qt.ConnectionType.QueuedConnection)
        worker.start()

    def set_keep_running(self, on: bool) -> None:
        """Say whether runs go on if this window ends without a word (it was killed, say)."""
        if on == self._keep_running:
            return
        self._keep_running = on
        for handle in self.active():
            if handle.request.kind == "train":
                handle.send({"cmd": "detach" if on else "attach"})

    # -- asking ---------------------------------------------------------------------------------
    @property
    def accepting(self) -> bool:
        """False once this window is ending: it takes no further job."""
        return self._accepting

    def active(self) -> list[JobHandle]:
        """Return the jobs that have a process."""
        return list(self._workers.values())

    def queued(self) -> list[JobHandle]:
        """Return the jobs that wait, in order."""
        return [handle for handle in self._queue if not handle.state.is_final]

    def lease_holder(self) -> JobHandle | None:
        """Return the heavy job that runs, if any."""
        for handle in self._workers.values():
            if handle.request.needs_gpu:
                return handle
        return None

    def find(self, kind: str, persona: str | None = None) -> JobHandle | None:
        """Return the newest job of a kind that has not ended."""
        for handle in reversed(self.handles):
            same = persona is None or handle.request.persona == persona
            if handle.request.kind == kind and same and not handle.state.is_final:
                return handle
        return None

    def running_titles(self) -> list[str]:
        """Return the titles of jobs that would be interrupted by closing the window."""
        titles = []
        for handle in [*self._workers.values(), *self.queued()]:
            if handle.request.kind not in ("chat", "monitor"):
                titles.append(handle.request.title or handle.request.kind)
        return titles

    # -- queue ----------------------------------------------------------------------------------
    def move(self, handle: JobHandle, offset: int) -> None:
        """Move a waiting job up (negative) or down in the queue."""
        if handle not in self._queue:
            return
        index = self._queue.index(handle)
        self._queue.remove(handle)
        self._queue.insert(max(0, min(len(self._queue), index + offset)), handle)
        self.queue_changed.emit()

    # -- end ------------------------------------------------------------------------------------
    def stop_all(self) -> None:
        """Ask every job to save and end, and start no further one."""
        self._accepting = False
        for handle in self.queued():
            handle.stop()
        for handle in self.active():
            handle.stop()
        if not self._workers:
            self.became_idle.emit()

    def leave_all(self) -> None:
        """Let runs go on by themselves, stop everything else, and start nothing further."""
        self._accepting = False
        for handle in self.queued():
            handle.stop()
        for handle in self.active():
            if handle.can_leave:
                handle.leave()
            else:
                handle.stop()
        if not self._workers:
            self.became_idle.emit()

    def kill_all(self) -> None:
        """End every process now."""
        for handle in self.active():
            handle.kill()

    def shutdown(self, timeout: float = 20.0) -> bool:
        """Stop everything and join all threads; what does not stop in time is killed.

        Runs go on by themselves where :meth:`set_keep_running` said so. Blocks; the window only
        calls it when jobs have ended or the user chose not to wait. Returns True if every thread
        was joined.
        """
        if self._keep_running:
            self.leave_all()
        else:
            self.stop_all()
        deadline = time.monotonic() + timeout
        for worker in list(self._workers):
            left = max(0.0, deadline - time.monotonic())
            if not worker.wait(int(1000 * left)):
                worker.ask_kill()
        joined = True
        for worker in list(self._workers):
            joined = worker.wait(15_000) and joined
        # The last states wait in the event queue of this thread.
        QCoreApplication.sendPostedEvents()
        if joined:
            for worker in list(self._workers):
                self._reap(worker)
        return joined

    @Slot()
    def _on_worker_finished(self) -> None:
        worker = self.sender()
        if isinstance(worker, Supervisor):
            self._reap(worker)

    def _reap(self, worker: Supervisor) -> None:
        handle = self._workers.pop(worker, None)
        if handle is None:
            return
        worker.wait()
        handle.release()
        worker.deleteLater()
        self._pump()
        self.job_ended.emit(handle)
        self._forget_old()
        if not self._workers:
            self.became_idle.emit()

    def _forget_old(self) -> None:
        finished = [handle for handle in self.handles if handle.state.is_final]
        for handle in finished[:-KEEP_FINISHED]:
            self.handles.remove(handle)
            handle.deleteLater()

    @Slot(object)
    def _on_handle_state_changed(self, _state: object) -> None:
        handle = self.sender()
        if isinstance(handle, JobHandle):
            self.job_changed.emit(handle)
            if handle.state.is_final and handle in self._queue:
                self._queue.remove(handle)
                self.queue_changed.emit()

    def _prune_logs(self) -> None:
        try:
            for path in sorted(self.log_dir.glob("*.log"))[:-KEEP_LOGS]:
                path.unlink()
        except OSError as error:
            log.warning("Old job logs in %s cannot be removed: %s", self.log_dir, error)
