"""Every way in which a child can end or misbehave, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from PySide6.QtCore import QCoreApplication

from so8t_engine.events import AnyEvent, Bye, Log, Metric
from so8t_engine.workspace.runs import RunStore
from so8t_studio.jobs import channel, worker
from so8t_studio.jobs.handle import JobHandle
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.service import JobService
from so8t_studio.jobs.state import Phase
from so8t_studio.jobs.worker import Patience
from so8t_studio.pages.train.run_feed import digest
from tests.helpers.apps import fake_command
from tests.helpers.leaks import LeakHunter

pytestmark = pytest.mark.usefixtures("no_leaks")
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


class Watch:
    """Everything that a handle announced."""

    def __init__(self, handle: JobHandle) -> None:
        self.batches: list[tuple[AnyEvent, ...]] = []
        self.phases: list[Phase] = []
        self.arrivals: list[float] = []
        handle.events.connect(self._on_events)
        handle.state_changed.connect(self._on_state)

    def _on_events(self, batch: tuple[AnyEvent, ...]) -> None:
        self.batches.append(batch)
        self.arrivals.append(time.monotonic())

    def _on_state(self, state: object) -> None:
        if not self.phases or self.phases[-1] is not state.phase:
            self.phases.append(state.phase)

    @property
    def events(self) -> list[AnyEvent]:
        return [event for batch in self.batches for event in batch]


@pytest.fixture
def service(qapp, tmp_path):
    patience = Patience(grace=0.6, terminate=0.6, reap=0.8, silence=0.0)
    made = JobService(log_dir=tmp_path / "logs", patience=patience)
    yield made
    assert made.shutdown(5.0)


def start(service: JobService, scenario: str, *options: str, **fields) -> tuple[JobHandle, Watch]:
    request = JobRequest(
        "train", [], title=scenario, command=fake_command(scenario, *options), **fields
    )
    handle = service.start(request)
    return handle, Watch(handle)


def wait_end(qtbot, handle: JobHandle, timeout: int = 20_000) -> None:
    qtbot.waitUntil(lambda: handle.state.is_final and handle.worker is None, timeout=timeout)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_good_run_passes_through_its_phases(qtbot, service, tmp_path):
    handle, watch = start(service, "train", "--run-dir", str(tmp_path / "run"))
    wait_end(qtbot, handle)
    assert watch.phases == [Phase.STARTING, Phase.RUNNING, Phase.DONE]
    assert handle.state.exit_code == 0
    assert handle.state.sentence == "Trained 20 of 20 steps."
    assert handle.state.run_dir == tmp_path / "run"
    assert [event.step for event in watch.events if isinstance(event, Metric)
            and event.split == "train"] == list(range(1, 21))  # fmt: skip
    assert isinstance(watch.events[-1], Bye)
    assert handle.state.pid == 0


def test_batches_arrive_at_most_ten_times_a_second(qtbot, service):
    handle, watch = start(service, "train", "--steps", "150", "--pace", "0.01")
    wait_end(qtbot, handle)
    span = watch.arrivals[-1] - watch.arrivals[0]
    assert span > 1.0
    assert len(watch.arrivals) <= 10 * span + 4


def test_stop_saves_and_is_called_cancelled(qtbot, service):
    handle, watch = start(service, "train", "--steps", "100000")
    qtbot.waitUntil(lambda: handle.state.phase is Phase.RUNNING, timeout=10_000)
    handle.stop()
    handle.stop()  # pressing twice changes nothing
    wait_end(qtbot, handle)
    assert watch.phases[-2:] == [Phase.STOPPING, Phase.CANCELLED]
    assert any(getattr(event, "reason", "") == "emergency" for event in watch.events)


def test_pause_is_shown_only_once_the_job_confirms_it(qtbot, service):
    handle, watch = start(service, "train", "--steps", "100000")
    qtbot.waitUntil(lambda: handle.state.phase is Phase.RUNNING, timeout=10_000)
    handle.pause()
    qtbot.waitUntil(lambda: handle.state.phase is Phase.PAUSED, timeout=10_000)
    steps = len(watch.events)
    qtbot.wait(300)
    assert len(watch.events) == steps
    handle.resume()
    qtbot.waitUntil(lambda: handle.state.phase is Phase.RUNNING, timeout=10_000)
    handle.stop()
    wait_end(qtbot, handle)


def test_a_child_that_ignores_stop_is_ended_with_its_tree(qtbot, service):
    handle, watch = start(service, "ignore-stop-tree")
    qtbot.waitUntil(lambda: any(isinstance(event, Log) for event in watch.events), timeout=10_000)
    message = next(event.message for event in watch.events if isinstance(event, Log))
    grandchild, child = int(message.split()[1]), handle.state.pid
    handle.stop()
    wait_end(qtbot, handle)
    assert handle.state.phase is Phase.CANCELLED
    assert "did not stop in time" in handle.state.sentence
    assert gone(child) and gone(grandchild)
    assert handle.state.survivors == ()


def test_kill_is_immediate(qtbot, service):
    service.patience = Patience(grace=600, terminate=600)
    handle, _watch = start(service, "ignore-stop")
    qtbot.waitUntil(lambda: handle.state.phase is Phase.RUNNING, timeout=10_000)
    child = handle.state.pid
    began = time.monotonic()
    handle.kill()
    wait_end(qtbot, handle)
    assert time.monotonic() - began < 5
    assert gone(child)
    assert handle.state.phase is Phase.CANCELLED


@posix
@pytest.mark.parametrize(
    ("name", "words"),
    [("SIGKILL", "memory ran out"), ("SIGSEGV", "native library crashed"),
     ("SIGTERM", "ended by SIGTERM")],
)  # fmt: skip
def test_death_by_signal_is_a_crash_with_a_sentence(qtbot, service, name, words):
    handle, _watch = start(service, "die", name)
    wait_end(qtbot, handle)
    assert handle.state.phase is Phase.CRASHED
    assert words in handle.state.sentence
    assert handle.state.next_step
    assert handle.state.exit_code == -getattr(signal, name)
    assert "last words before the crash" in handle.state.stderr_tail
    assert "last words before the crash" in handle.state.details


def test_an_exit_before_hello_shows_what_it_printed(qtbot, service):
    handle, watch = start(service, "before-hello")
    wait_end(qtbot, handle)
    assert handle.state.phase is Phase.FAILED
    assert "No module named 'torch'" in handle.state.stderr_tail
    assert Phase.RUNNING not in watch.phases


def test_a_reported_error_is_failed_and_carries_the_next_step(qtbot, service):
    handle, _watch = start(service, "error")
    wait_end(qtbot, handle)
    assert handle.state.phase is Phase.FAILED
    assert handle.state.sentence == "The data set has no row labelled REFUSE. It was filtered."
    assert handle.state.next_step == "Add rows labelled REFUSE."
    assert handle.state.exit_code == 3


def test_a_program_that_does_not_exist_fails_clearly(qtbot, service, tmp_path):
    handle = service.start(JobRequest("train", [], command=[str(tmp_path / "nowhere")]))
    wait_end(qtbot, handle)
    assert handle.state.phase is Phase.FAILED
    assert "nowhere" in handle.state.sentence


def test_a_flood_of_50000_events_arrives_whole(qtbot, service):
    handle, watch = start(service, "flood")
    wait_end(qtbot, handle, 60_000)
    steps = [event.step for event in watch.events if isinstance(event, Metric)]
    assert steps == list(range(50_000))
    assert isinstance(watch.events[-1], Bye)
    assert max(len(batch) for batch in watch.batches) <= 4_000


def test_garbage_is_counted_and_shown(qtbot, service):
    handle, watch = start(service, "garbage")
    wait_end(qtbot, handle)
    assert handle.state.phase is Phase.DONE
    assert handle.state.garbage == 4  # the event from the future is not garbage
    warnings = [event for event in watch.events if isinstance(event, Log)]
    assert "4 lines" in warnings[-1].message


def test_silence_is_reported_and_nothing_is_killed(qtbot, service):
    service.patience = Patience(grace=5, silence=0.4)
    handle, _watch = start(service, "silent")
    qtbot.waitUntil(lambda: handle.state.silent_s > 0.3, timeout=10_000)
    assert handle.state.phase is Phase.RUNNING
    assert "No sign of life" in handle.state.sentence
    assert not gone(handle.state.pid)
    handle.stop()
    wait_end(qtbot, handle)
    assert handle.state.phase is Phase.CANCELLED


class Clock:
    """The monotonic clock of a machine that sleeps now and then."""

    def __init__(self) -> None:
        self.slept = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.slept

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


def test_a_laptop_that_slept_blames_nobody(qtbot, service, monkeypatch):
    clock = Clock()
    for module in (worker, channel):
        monkeypatch.setattr(module, "time", clock)
    service.patience = Patience(grace=30.0, terminate=5.0, silence=20.0)
    handle, watch = start(service, "silent")
    qtbot.waitUntil(lambda: handle.state.phase is Phase.RUNNING, timeout=10_000)
    clock.slept += 3600.0
    qtbot.wait(600)
    assert handle.state.silent_s == 0.0 and Phase.CRASHED not in watch.phases
    service.patience = Patience(grace=30.0)
    stubborn, _ = start(service, "ignore-stop")
    qtbot.waitUntil(lambda: stubborn.state.phase is Phase.RUNNING, timeout=10_000)
    stubborn.stop()
    qtbot.waitUntil(lambda: stubborn.state.phase is Phase.STOPPING, timeout=5_000)
    clock.slept += 3600.0
    qtbot.wait(600)
    assert stubborn.state.phase is Phase.STOPPING, "the sleep does not use up its time to save"
    assert not gone(stubborn.state.pid)
    for job in (handle, stubborn):
        job.kill()
        wait_end(qtbot, job)


def test_a_wall_clock_that_jumps_changes_nothing(qtbot, service, tmp_path):
    handle, watch = start(service, "clock-jumps", "--run-dir", str(tmp_path / "run"))
    wait_end(qtbot, handle)
    assert watch.phases == [Phase.STARTING, Phase.RUNNING, Phase.DONE]
    live = [event.step for event in watch.events if isinstance(event, Metric)]
    assert live == list(range(1, 41))
    recorded = digest(RunStore(tmp_path / "run").events())
    assert recorded.columns["train", "loss"][0] == list(range(1, 41))


def test_a_finished_job_that_lingers_is_reaped_and_still_done(qtbot, service):
    handle, watch = start(service, "never-exits")
    qtbot.waitUntil(lambda: any(isinstance(e, Bye) for e in watch.events), timeout=10_000)
    child = handle.state.pid
    began = time.monotonic()
    wait_end(qtbot, handle)
    assert time.monotonic() - began < 6
    assert handle.state.phase is Phase.DONE
    assert gone(child)


def test_a_grandchild_that_holds_the_pipe_does_not_hold_the_job(qtbot, service):
    handle, _watch = start(service, "orphan-holds-pipe")
    wait_end(qtbot, handle)
    assert handle.state.phase is Phase.DONE


@posix
def test_a_child_notices_that_the_studio_was_killed(tmp_path):
    script = textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from PySide6.QtCore import QCoreApplication
        app = QCoreApplication([])
        from tests.helpers.apps import fake_command
        from so8t_studio.jobs.request import JobRequest
        from so8t_studio.jobs.service import JobService
        from pathlib import Path
        service = JobService(log_dir=Path({str(tmp_path)!r}) / "logs")
        command = fake_command("loses-parent", "--run-dir", {str(tmp_path / "run")!r})
        handle = service.start(JobRequest("train", [], command=command))
        handle.events.connect(lambda batch: print(handle.hello.pid, flush=True))
        app.exec()
    """)
    studio = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
    )  # fmt: skip
    assert studio.stdout is not None
    child = int(studio.stdout.readline())
    studio.kill()
    studio.wait()
    studio.stdout.close()
    deadline = time.monotonic() + 10
    while not gone(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert gone(child)
    assert (tmp_path / "run" / "parent-gone.txt").read_text("utf-8") == "saved"


def test_heavy_jobs_wait_for_each_other_and_the_queue_can_change(qtbot, service):
    first, _ = start(service, "train", "--steps", "100000", needs_gpu=True)
    second, _ = start(service, "train", "--steps", "3", needs_gpu=True)
    third, _ = start(service, "train", "--steps", "3", needs_gpu=True)
    light, _ = start(service, "train", "--steps", "3")
    qtbot.waitUntil(lambda: first.state.phase is Phase.RUNNING, timeout=10_000)
    wait_end(qtbot, light)
    assert light.state.phase is Phase.DONE  # a light job does not wait
    assert second.state.phase is Phase.QUEUED
    service.move(third, -1)
    assert service.queued() == [third, second]
    second.stop()
    assert second.state.phase is Phase.CANCELLED
    first.stop()
    wait_end(qtbot, third)
    assert third.state.phase is Phase.DONE
    assert service.lease_holder() is None


def test_shutdown_delivers_the_last_states(qtbot, service):
    handle, _watch = start(service, "train", "--steps", "100000")
    qtbot.waitUntil(lambda: handle.state.phase is Phase.RUNNING, timeout=10_000)
    assert service.shutdown(10.0)
    assert handle.state.phase is Phase.CANCELLED
    assert service.active() == []


def cycle(qtbot, service: JobService, times: int) -> None:
    for number in range(times):
        handle, _watch = start(service, "train", "--steps", "100000", "--pace", "0.005")
        qtbot.waitUntil(lambda handle=handle: handle.state.phase is Phase.RUNNING, timeout=20_000)
        if number % 4 == 3:
            handle.kill()
        else:
            handle.stop()
        wait_end(qtbot, handle)


@pytest.mark.parametrize(
    "times", [pytest.param(20, id="20"), pytest.param(200, id="200", marks=pytest.mark.slow)]
)
def test_start_and_stop_leave_nothing_behind(qtbot, service, times):
    cycle(qtbot, service, 2)
    QCoreApplication.processEvents()
    hunter = LeakHunter(handle_slack=1)
    before = psutil.Process().memory_info().rss
    cycle(qtbot, service, times)
    hunter.check()
    grown = psutil.Process().memory_info().rss - before
    assert grown < 30 << 20, f"memory grew by {grown >> 20} MiB"
    assert len(service.handles) <= 60
