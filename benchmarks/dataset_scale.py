"""Measures the Dataset page on 100,000 rows, beside polars doing the same load and filter.

    python benchmarks/dataset_scale.py [--rows 100000] [--skip-near]

Prints wall time, the CPU time of the thread that did it (on a busy machine the two differ), the
bound of each figure (on wall time) and the ratio to polars where polars does the comparable work.
Runs offscreen, in a workspace of its own, and ends with 1 if a bound was missed.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

ENGLISH = (
    "please", "reset", "kill", "the", "server", "contract", "employee", "salary", "draft", "report",
    "secret", "password", "medicine", "invoice", "customer", "delete", "archive", "travel",
    "budget", "policy", "review", "shipment", "garden", "recipe", "python", "harbour", "winter",
)  # fmt: skip

JAPANESE = ("会議室", "契約書", "社員", "給料", "予約", "請求書", "顧客", "削除", "資料", "薬",
            "出張", "予算", "確認", "パスワード", "東京", "天気", "料理", "報告")  # fmt: skip


def make_rows(count: int) -> list[Any]:
    """Return ``count`` different rows, half English, half Japanese."""
    from so8t_engine.labels import LABELS
    from so8t_engine.samples.schema import Sample

    draw = random.Random(7)
    rows = []
    for number in range(count):
        if number % 2:
            request = "を".join(draw.choices(JAPANESE, k=8)) + f"（{number}）してください。"
        else:
            request = " ".join(draw.choices(ENGLISH, k=14)) + f" {number}?"
        rows.append(
            Sample(
                id=f"row{number}", request=request, label=LABELS[draw.randrange(3)],
                rationale="Because " + " ".join(draw.choices(ENGLISH, k=10)),
                category=draw.choice(ENGLISH), language="ja" if number % 2 else "en",
            )
        )  # fmt: skip
    return rows


class Clock:
    """Wall time and the CPU time of this thread, in milliseconds, of what happens inside."""

    def __enter__(self) -> Clock:
        self._start = (time.perf_counter(), time.thread_time())
        self.wall = self.cpu = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = (time.perf_counter() - self._start[0]) * 1e3
        self.cpu = (time.thread_time() - self._start[1]) * 1e3


def timed(action: Callable[[], Any], repeats: int = 3) -> tuple[float, float, Any]:
    """Return the medians of wall and CPU time in milliseconds, and the last result."""
    clocks, result = [], None
    for _ in range(repeats):
        with Clock() as clock:
            result = action()
        clocks.append(clock)
    return median(clocks, "wall"), median(clocks, "cpu"), result


def median(clocks: Sequence[Clock], kind: str) -> float:
    """Return the median of ``wall`` or ``cpu``."""
    return statistics.median(getattr(clock, kind) for clock in clocks)


def p95(clocks: Sequence[Clock], kind: str) -> float:
    """Return the value of ``wall`` or ``cpu`` below which 95 % lie."""
    ordered = sorted(getattr(clock, kind) for clock in clocks)
    return float(ordered[min(int(len(ordered) * 0.95), len(ordered) - 1)])


class Report:
    """Collects lines and prints them as a table."""

    def __init__(self, *, header: bool = True) -> None:
        self.missed = 0
        if header:
            print(f"{'figure':<44}{'wall':>12}{'CPU':>12}{'bound':>12}   wall / polars")

    def add(
        self, name: str, wall: float, cpu: float | None, bound: float, unit: str, polars: float = 0
    ) -> None:
        """Print one line; a bound of 0 is none, a ratio above 1 means that polars is faster."""
        mark = "   MISSED" if bound and wall > bound else ""
        self.missed += bool(mark)
        used = f"{cpu:>9.1f} {unit:<2}" if cpu is not None else f"{'–':>12}"
        limit = f"{bound:>9.0f} {unit:<2}" if bound else f"{'–':>12}"
        ratio = f"   {wall / polars:6.1f} x ({polars:.3g} {unit})" if polars else ""
        print(f"{name:<44}{wall:>9.1f} {unit:<2}{used}{limit}{ratio}{mark}", flush=True)

    def clocks(self, name: str, clocks: Sequence[Clock], bound: float) -> None:
        """Print median and 95th percentile of many measurements; the bound is for the latter."""
        self.add(f"{name}, median", median(clocks, "wall"), median(clocks, "cpu"), 0, "ms")
        self.add(f"{name}, p95", p95(clocks, "wall"), p95(clocks, "cpu"), bound, "ms")


def peak_memory() -> float:
    """Return this process's peak resident memory in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss also counts what the parent had before the exec
        line = next(one for one in status.read_text().splitlines() if one.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import psutil

    return float(psutil.Process().memory_info().rss / 2**20)


def measure_files(folder: Path, rows: list[Any], report: Report) -> Path:
    """Reading and writing, without a window."""
    import polars as pl

    from so8t_engine.samples.query import parse_query, searchable
    from so8t_engine.samples.readers import read_samples
    from so8t_engine.samples.writers import write_samples

    for suffix, reader, bound in (
        (".jsonl", pl.read_ndjson, 2000), (".csv", pl.read_csv, 4000),
        (".parquet", pl.read_parquet, 4000),
    ):  # fmt: skip
        path = folder / f"rows{suffix}"
        write_samples(path, rows)
        wall, cpu, result = timed(lambda path=path: read_samples(path))
        assert len(result.samples) == len(rows) and not result.rejected
        beside, _, frame = timed(lambda path=path, reader=reader: reader(path))
        assert frame.height == len(rows)
        report.add(f"read {suffix} into samples", wall, cpu, bound, "ms", beside)
    frame = pl.read_ndjson(folder / "rows.jsonl")
    texts = [searchable(sample) for sample in rows]
    requests = pl.col("request").str.to_lowercase()
    for name, text, found in (
        ("a word", "contract", requests.str.contains("contract", literal=True)),
        ("label and word", "label:REFUSE contract",
         (pl.col("label") == "REFUSE") & requests.str.contains("contract", literal=True)),
        ("a regular expression", "/contr.ct/", requests.str.contains("contr.ct")),
    ):  # fmt: skip
        query = parse_query(text)
        wall, cpu, chosen = timed(lambda query=query: query.select(rows, texts), 9)
        beside, _, other = timed(lambda found=found: frame.filter(found), 9)
        assert len(chosen) >= other.height > 0  # all texts are searched, not only the request
        bound = 0 if query.slow else 50  # slow ones do not run between keystrokes
        report.add(f"select by {name}", wall, cpu, bound, "ms", beside)
    return folder / "rows.jsonl"


def open_page(folder: Path) -> tuple[Any, Any, Any]:
    """Return application, context and a Dataset page on an empty persona."""
    from so8t_studio.app import build_context, make_application
    from so8t_studio.pages.dataset.page import DatasetPage

    app = make_application()
    os.environ["SO8T_SETTINGS"] = str(folder / "settings.json")
    context = build_context(folder / "workspace")
    context.workspace.create_persona("Bench")
    context.open_persona("bench")
    page = DatasetPage(context)
    page.resize(1280, 800)
    page.show()
    app.processEvents()
    return app, context, page


def measure_keys(app: Any, page: Any, report: Report, note: str = "") -> None:
    """Real key presses in the search field, until the table has painted the rows that are left."""
    from PySide6.QtCore import QEvent, QObject
    from PySide6.QtTest import QTest

    class Painted(QObject):
        """Tells whether the rows were painted since somebody last asked."""

        seen = False

        def eventFilter(self, watched: QObject, event: QEvent) -> bool:
            self.seen = self.seen or event.type() == QEvent.Type.Paint
            return False

    field, viewport = page.search.field, page.table.viewport()
    painted = Painted()
    viewport.installEventFilter(painted)
    keys = []
    for word in ("contract", "会議室", "label:REFUSE kill", "zzz", "lang:ja -label:ALLOW"):
        field.clear()
        app.processEvents()
        for key in word:
            painted.seen = False
            with Clock() as clock:
                if key.isascii():
                    QTest.keyClick(field, key)
                else:
                    field.insert(key)  # as an input method does
                app.processEvents()  # the filter runs when no further key is waiting
                if not painted.seen:  # nothing changed, or the paint event is still to come
                    viewport.repaint()
            keys.append(clock)
    report.clocks(f"filter keystroke to repaint{note}", keys, 50)
    viewport.removeEventFilter(painted)
    page.search._completer.popup().hide()
    page.search.set_text("")
    app.processEvents()


def scroll(page: Any) -> list[Clock]:
    """Return the times of 300 frames over the whole table."""
    frames = []
    bar = page.table.verticalScrollBar()
    for step in range(300):
        with Clock() as clock:
            bar.setValue(int(bar.maximum() * step / 300))
            page.table.viewport().repaint()
        frames.append(clock)
    return frames


def measure_edits(app: Any, page: Any, store: Any, report: Report) -> None:
    """Bulk edits by keys, their undo, the journal, saving, and the edit of one row."""
    from PySide6.QtCore import Qt
    from PySide6.QtTest import QTest

    from so8t_studio.commands import dataset as commands

    ids = [sample.id for sample in store.samples]
    control = Qt.KeyboardModifier.ControlModifier
    none = Qt.KeyboardModifier.NoModifier
    page.table.setFocus()
    for key, modifier, name, bound in (
        (Qt.Key.Key_A, control, "Ctrl+A: select all rows", 100),
        (Qt.Key.Key_3, none, "3: relabel all rows", 300),
        (Qt.Key.Key_Z, control, "Ctrl+Z: undo of it", 300),
        (Qt.Key.Key_Y, control, "Ctrl+Y: redo of it", 300),
    ):
        if key == Qt.Key.Key_Z:
            page.table.selectAll()
            app.processEvents()
        with Clock() as clock:
            QTest.keyClick(page.table, key, modifier)
            app.processEvents()
            page.repaint()
        report.add(name, clock.wall, clock.cpu, bound, "ms")
    assert {sample.label.value for sample in store.samples} == {"REFUSE"}
    with Clock() as clock:
        store.flush_journal()
    report.add("journal on disk after the bulk edits", clock.wall, None, 1000, "ms")
    with Clock() as clock:
        store.save()
    report.add("save", clock.wall, clock.cpu, 2000, "ms")
    one = []
    for number in range(50):
        with Clock() as clock:
            commands.set_field(store, ids[number * 97 % len(ids)], "rationale", f"new {number}")
            page.table.viewport().repaint()
        one.append(clock)
    report.clocks("edit of one row to repaint", one, 16)


def measure_window(folder: Path, path: Path, report: Report) -> None:
    """The page: usable table, keystrokes, scrolling, bulk edits."""
    from so8t_engine.samples.readers import read_samples
    from so8t_studio.app import close_context
    from so8t_studio.commands import dataset as commands

    app, context, page = open_page(folder)
    store = context.dataset
    with Clock() as clock:
        samples = read_samples(path).samples
        commands.import_samples(store, samples, mode="append")
        page.repaint()
        app.processEvents()
    report.add("import JSONL to usable table", clock.wall, clock.cpu, 2000, "ms")
    measure_keys(app, page, report)
    report.clocks("scroll frame", scroll(page), 16)
    page.model.set_sort((("request", False),))
    app.processEvents()
    measure_keys(app, page, report, ", sorted")
    page.model.set_sort(())
    measure_edits(app, page, store, report)
    app.processEvents()
    page.quality.run()
    time.sleep(0.5)
    report.clocks("scroll frame while the check runs", scroll(page), 0)
    page.quality.stop()
    page.statistics.stop()
    page.filtering.stop()
    store.close()
    close_context(context)


def main() -> int:
    """Run everything and return 1 if a bound was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--skip-near", action="store_true")
    parser.add_argument("--window", nargs=2, metavar=("FOLDER", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.window:
        window = Report(header=False)
        measure_window(Path(options.window[0]), Path(options.window[1]), window)
        window.add("peak memory of the window", peak_memory(), None, 600, "MB")
        return window.missed
    rows = make_rows(options.rows)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(
        f"{options.rows:,} rows, {os.cpu_count()} CPU cores{load}, Python {sys.version.split()[0]}"
    )
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = measure_files(folder, rows, report)
        if not options.skip_near:
            from so8t_engine.samples.duplicates import near_groups

            with Clock() as clock:
                near_groups(rows)
            report.add("near-duplicate scan", clock.wall / 1e3, clock.cpu / 1e3, 30, "s")
        del rows
        # In a process of its own, so that the memory is the window's alone.
        child = subprocess.run(
            [sys.executable, __file__, "--window", str(folder), str(path)], check=False
        )
        report.missed += child.returncode
    return 1 if report.missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
