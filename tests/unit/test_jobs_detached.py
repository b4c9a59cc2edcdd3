"""Runs that outlive their window: left, orphaned, found again, commanded through their folder."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from so8t_engine.events import Log, Metric
from so8t_engine.workspace import runs as runs_module
from so8t_engine.workspace.runs import RunState, RunStore, process_start
from so8t_engine.workspace.workspace import Workspace
from so8t_studio.jobs.attached import AttachedWorker, Tail
from so8t_studio.jobs.handle import JobHandle
from so8t_studio.jobs.reattach import attach, living_runs
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.service import JobService
from so8t_studio.jobs.state import Phase
from so8t_studio.jobs.worker import Patience

pytestmark = pytest.mark.usefixtures("no_leaks")
ROOT = Path(__file__).parents[2]
RUN = "20260101_120000"


@pytest.fixture
def workspace(tmp_path):
    made = Workspace.open(tmp_path / "workspace")
    made.ensure_starter()
    yield made
    made.close()


@pytest.fixture
def run(workspace) -> RunStore:
    return RunStore(workspace.personas()[0].runs_dir / RUN)


@pytest.fixture
def service(qapp, tmp_path):
    patience = Patience(grace=5.0, terminate=1.0, reap=1.0, silence=0.0)
    made = JobService(log_dir=tmp_path / "logs", patience=patience)
    yield made
    assert made.shutdown(10.0)


@pytest.fixture
def strays():
    """Processes that a test left running on purpose; they end with it."""
    found: list[int] = []
    yield found
    for pid in found:
        try:
            process = psutil.Process(pid)
            process.kill()
            process.wait(5)
        except psutil.Error:
            continue


def child(run: RunStore, *options: str) -> list[str]:
    module = "tests.helpers.detachable_child"
    return [sys.executable, "-m", module, str(run.root), "--events", *options]


def start(service: JobService, run: RunStore, *options: str) -> JobHandle:
    return service.start(
        JobRequest("train", [], title="Train", persona="p", command=child(run, *options))
    )


def running(qtbot, handle: JobHandle) -> None:
    qtbot.waitUntil(lambda: handle.state.phase is Phase.RUNNING, timeout=20_000)


def found_again(service: JobService, workspace: Workspace) -> JobHandle:
    (living,) = living_runs(workspace)
    handle = attach(service, living, "Train again")
    assert handle is not None
    return handle


def steps_of(run: RunStore) -> list[int]:
    return [event.step for event in run.events() if isinstance(event, Metric)]


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def leave(qtbot, service: JobService, handle: JobHandle) -> int:
    running(qtbot, handle)
    pid = handle.state.pid
    service.leave_all()
    qtbot.waitUntil(lambda: not service.active(), timeout=10_000)
    assert handle.state.phase is Phase.DETACHED
    return pid


def test_a_run_that_is_left_goes_on_and_is_commanded_by_the_next_window(
    qtbot, service, workspace, run, tmp_path, strays
):
    pid = leave(qtbot, service, start(service, run))
    strays.append(pid)
    before = len(steps_of(run))
    qtbot.waitUntil(lambda: len(steps_of(run)) > before + 20, timeout=10_000)
    assert alive(pid)
    second = JobService(log_dir=tmp_path / "logs2", patience=service.patience)
    handle = found_again(second, workspace)
    assert second.lease_holder() is handle, "it takes the one place for heavy jobs"
    running(qtbot, handle)
    assert handle.state.pid == pid and handle.state.adopted
    qtbot.waitUntil(lambda: handle.progress is not None, timeout=5_000)
    handle.pause()
    qtbot.waitUntil(lambda: handle.state.phase is Phase.PAUSED, timeout=10_000)
    still = steps_of(run)
    qtbot.wait(200)
    assert steps_of(run) == still
    handle.resume()
    running(qtbot, handle)
    handle.stop()
    qtbot.waitUntil(lambda: handle.worker is None, timeout=15_000)
    assert handle.state.phase is Phase.CANCELLED
    assert "stopped by the user" in handle.state.sentence
    assert not alive(pid)
    steps = steps_of(run)
    assert steps == list(range(1, len(steps) + 1)), "no step is missing from the history"
    assert "alone" in [event.message for event in run.events() if isinstance(event, Log)]
    assert second.shutdown(5.0)


def test_what_the_second_window_hears_begins_where_the_history_ends(
    qtbot, service, workspace, run, tmp_path, strays
):
    strays.append(leave(qtbot, service, start(service, run, "--steps", "400")))
    second = JobService(log_dir=tmp_path / "logs2", patience=service.patience)
    handle = found_again(second, workspace)
    heard: list[int] = []
    handle.events.connect(
        lambda batch: heard.extend(event.step for event in batch if isinstance(event, Metric))
    )
    qtbot.waitUntil(lambda: handle.worker is None, timeout=20_000)
    assert handle.state.phase is Phase.DONE and "400 steps" in handle.state.sentence
    assert heard and heard == list(range(heard[0], 401))
    assert second.shutdown(5.0)


def test_what_is_written_before_the_second_window_follows_is_heard(
    qtbot, service, workspace, run, tmp_path, strays, monkeypatch
):
    strays.append(leave(qtbot, service, start(service, run, "--steps", "400")))
    catch_up = AttachedWorker._catch_up

    def late(worker: AttachedWorker) -> None:
        begun = len(steps_of(run))
        while len(steps_of(run)) < begun + 20:
            time.sleep(0.01)
        catch_up(worker)

    monkeypatch.setattr(AttachedWorker, "_catch_up", late)
    second = JobService(log_dir=tmp_path / "logs2", patience=service.patience)
    handle = found_again(second, workspace)
    history = steps_of(run)
    heard: list[int] = []
    handle.events.connect(
        lambda batch: heard.extend(event.step for event in batch if isinstance(event, Metric))
    )
    qtbot.waitUntil(lambda: handle.worker is None, timeout=20_000)
    assert heard == list(range(heard[0], 401)), "each step once"
    assert heard[0] <= history[-1] + 1, "none between the history and what is heard is lost"
    assert second.shutdown(5.0)


def test_a_window_that_ends_leaves_runs_where_the_setting_says_so(
    qtbot, service, workspace, run, tmp_path, strays
):
    service.set_keep_running(True)
    handle = start(service, run)
    running(qtbot, handle)
    strays.append(handle.state.pid)
    assert service.shutdown(10.0)
    assert handle.state.phase is Phase.DETACHED and alive(handle.state.pid)
    (living,) = living_runs(workspace)
    assert attach(service, living, "again") is None, "a window that ends follows nothing"


def test_a_run_is_not_followed_twice(qtbot, service, workspace, run):
    handle = start(service, run)
    running(qtbot, handle)
    (living,) = living_runs(workspace)
    assert attach(service, living, "again") is None
    handle.stop()
    qtbot.waitUntil(lambda: handle.worker is None, timeout=10_000)
    assert living_runs(workspace) == []


def test_a_process_id_that_was_used_again_is_not_taken_for_the_run(workspace, run):
    run.root.mkdir(parents=True)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        begun = process_start(other.pid)
        run.save_state(RunState(state="running", pid=other.pid, pid_started=begun))
        assert [living.run.id for living in living_runs(workspace)] == [RUN]
        run.save_state(RunState(state="running", pid=other.pid, pid_started=begun - 10))
        assert living_runs(workspace) == []
        assert run.state().state == "crashed"
    finally:
        other.kill()
        other.wait()
    run.save_state(RunState(state="running", pid=other.pid, pid_started=begun))
    assert living_runs(workspace) == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the start time is not derived")
def test_setting_the_clock_does_not_make_a_living_run_look_dead(monkeypatch, workspace, run):
    run.root.mkdir(parents=True)
    pid = os.getppid()
    run.save_state(RunState(state="running", pid=pid, pid_started=process_start(pid)))
    # psutil derives creation times from the boot time, which moves with the wall clock.
    actual = psutil.Process.create_time
    monkeypatch.setattr(runs_module.psutil.Process, "create_time", lambda p: actual(p) + 7200)
    assert run.state().state == "running"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_followed_run_that_is_killed_is_a_crash_with_what_it_printed(
    qtbot, service, workspace, run, tmp_path, strays
):
    pid = leave(qtbot, service, start(service, run))
    strays.append(pid)
    second = JobService(log_dir=tmp_path / "logs2", patience=service.patience)
    handle = found_again(second, workspace)
    running(qtbot, handle)
    os.kill(pid, signal.SIGKILL)
    qtbot.waitUntil(lambda: handle.worker is None, timeout=10_000)
    assert handle.state.phase is Phase.CRASHED
    assert "Resume" in handle.state.next_step
    assert "a word on stderr" in handle.state.details
    assert run.state().state == "crashed"
    assert second.shutdown(5.0)


def test_end_now_works_on_a_run_of_another_window(qtbot, service, workspace, run, tmp_path, strays):
    pid = leave(qtbot, service, start(service, run))
    strays.append(pid)
    patience = dataclasses.replace(service.patience, grace=600.0)
    second = JobService(log_dir=tmp_path / "logs2", patience=patience)
    handle = found_again(second, workspace)
    running(qtbot, handle)
    handle.kill()
    qtbot.waitUntil(lambda: handle.worker is None, timeout=10_000)
    assert handle.state.phase is Phase.CANCELLED and not alive(pid)
    assert second.shutdown(5.0)


def test_a_stop_that_was_asked_for_is_not_undone_by_leaving(qtbot, service, run):
    handle = start(service, run)
    running(qtbot, handle)
    handle.stop()
    service.leave_all()
    qtbot.waitUntil(lambda: handle.worker is None, timeout=10_000)
    assert handle.state.phase is Phase.CANCELLED


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL of POSIX")
def test_with_the_setting_a_run_survives_the_death_of_its_window(
    qtbot, service, workspace, run, tmp_path, strays
):
    script = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from PySide6.QtCore import QCoreApplication
        from so8t_studio.jobs.request import JobRequest
        from so8t_studio.jobs.service import JobService
        app = QCoreApplication([])
        service = JobService(log_dir=Path({str(tmp_path)!r}) / "logs3")
        service.set_keep_running(True)
        handle = service.start(JobRequest("train", [], command={child(run)!r}))
        handle.events.connect(lambda batch: print(handle.hello.pid, len(batch), flush=True))
        app.exec()
    """)
    studio = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert studio.stdout is not None
    lines = [studio.stdout.readline() for _ in range(3)]
    pid = int(lines[0].split()[0])
    strays.append(pid)
    studio.kill()
    studio.wait()
    studio.stdout.close()
    before = len(steps_of(run))
    qtbot.waitUntil(lambda: len(steps_of(run)) > before + 20, timeout=10_000)
    handle = found_again(service, workspace)
    running(qtbot, handle)
    assert handle.state.pid == pid
    handle.stop()
    qtbot.waitUntil(lambda: handle.worker is None, timeout=15_000)
    assert handle.state.phase is Phase.CANCELLED
    steps = steps_of(run)
    assert steps == list(range(1, len(steps) + 1))


def test_the_tail_reads_whole_lines_only_and_starts_anew_when_the_file_shrinks(tmp_path):
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    line = b'{"type":"log","v":1,"seq":%d,"level":"info","message":"%d"}\n'
    path.write_bytes(line % (0, 0) + (line % (1, 1))[:20])
    assert [event.message for event in tail.read()] == ["0"]
    with path.open("ab") as stream:
        stream.write((line % (1, 1))[20:] + b"garbage\n\xff\n")
    assert [event.message for event in tail.read()] == ["1"]
    assert tail.garbage == 2
    path.write_bytes(line % (2, 2))
    assert [event.message for event in tail.read()] == ["2"]


def test_living_runs_of_every_persona_are_found(workspace, run):
    state = RunState(state="paused", pid=os.getpid(), pid_started=process_start(os.getpid()))
    run.root.mkdir(parents=True)
    run.save_state(state)
    (living,) = living_runs(workspace)
    starter = workspace.personas()[0]
    assert (living.persona, living.title) == (starter.slug, starter.name)
    assert living.run.root == run.root and living.state.state == "paused"
