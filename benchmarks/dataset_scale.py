"""Measures the Dataset page on 100,000 rows, beside polars doing the same load and filter.

    python benchmarks/dataset_scale.py [--rows 100000] [--skip-near]

Prints medians, 95th percentiles, the bound of each figure and the ratio to polars where polars does
the comparable work. Runs offscreen, in a workspace of its own.
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
from collections.abc import Callable
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


def timed(action: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """Return the median of the wall time in seconds, and the last result."""
    times, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = action()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


class Report:
    """Collects lines and prints them as a table."""

    def __init__(self, *, header: bool = True) -> None:
        self.missed = 0
        if header:
            print(f"{'figure':<44}{'measured':>12}{'bound':>12}   ratio to polars")

    def add(self, name: str, value: float, bound: float, unit: str, polars: float = 0.0) -> None:
        """Print one line; a ratio above 1 means that polars is faster."""
        mark = "" if value <= bound else "   MISSED"
        self.missed += value > bound
        ratio = f"   {value / polars:6.1f} x ({polars:.3g} {unit})" if polars else ""
        print(f"{name:<44}{value:>9.1f} {unit:<2}{bound:>9.0f} {unit:<2}{ratio}{mark}", flush=True)


def peak_memory() -> float:
    """Return this process's peak resident memory in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss also counts what the parent had before the exec
        line = next(one for one in status.read_text().splitlines() if one.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import psutil

    return float(psutil.Process().memory_info().rss / 2**20)


def percentile(values: list[float], share: float) -> float:
    """Return the value below which ``share`` of the values lie."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


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
        seconds, result = timed(lambda path=path: read_samples(path))
        assert len(result.samples) == len(rows) and not result.rejected
        beside, frame = timed(lambda path=path, reader=reader: reader(path))
        assert frame.height == len(rows)
        report.add(f"read {suffix} into samples", seconds * 1e3, bound, "ms", beside * 1e3)
    frame = pl.read_ndjson(folder / "rows.jsonl")
    found = pl.col("request").str.to_lowercase().str.contains("contract", literal=True)
    beside, _ = timed(lambda: frame.filter(found), 9)
    texts = [searchable(sample) for sample in rows]
    query = parse_query("contract")
    seconds, _ = timed(lambda: query.select(rows, texts), 9)
    report.add("filter by a word, without the window", seconds * 1e3, 50, "ms", beside * 1e3)
    return folder / "rows.jsonl"


def measure_window(folder: Path, path: Path, report: Report) -> None:
    """The page: usable table, keystrokes, scrolling, bulk edits."""
    from PySide6.QtWidgets import QApplication

    from so8t_engine.labels import Label
    from so8t_engine.samples.readers import read_samples
    from so8t_studio.app import build_context, close_context, make_application
    from so8t_studio.commands import dataset as commands
    from so8t_studio.pages.dataset.page import DatasetPage

    app = make_application()
    os.environ["SO8T_SETTINGS"] = str(folder / "settings.json")
    context = build_context(folder / "workspace")
    context.workspace.create_persona("Bench")
    context.open_persona("bench")
    page = DatasetPage(context)
    page.resize(1280, 800)
    page.show()
    QApplication.processEvents()
    store = context.dataset
    start = time.perf_counter()
    samples = read_samples(path).samples
    commands.import_samples(store, samples, mode="append")
    page.repaint()
    app.processEvents()
    report.add("import JSONL to usable table", (time.perf_counter() - start) * 1e3, 2000, "ms")

    keys: list[float] = []
    for word in ("contract", "会議室", "label:REFUSE kill", "zzz", "lang:ja -label:ALLOW"):
        for end in range(1, len(word) + 1):
            start = time.perf_counter()
            page.search.field.setText(word[:end])
            page.search._timer.stop()
            page.search._announce()
            page.table.viewport().repaint()
            keys.append((time.perf_counter() - start) * 1e3)
            app.processEvents()
    report.add("filter keystroke to repaint, median", statistics.median(keys), 50, "ms")
    report.add("filter keystroke to repaint, p95", percentile(keys, 0.95), 50, "ms")
    page.search.set_text("")
    app.processEvents()
    frames: list[float] = []
    bar = page.table.verticalScrollBar()
    for step in range(300):
        bar.setValue(int(bar.maximum() * step / 300))
        start = time.perf_counter()
        page.table.viewport().repaint()
        frames.append((time.perf_counter() - start) * 1e3)
    report.add("scroll frame, median", statistics.median(frames), 16, "ms")
    report.add("scroll frame, p95", percentile(frames, 0.95), 16, "ms")
    ids = [sample.id for sample in store.samples]
    for label, name in ((Label.REFUSE, "relabel all rows"), (Label.ALLOW, "relabel again")):
        start = time.perf_counter()
        commands.relabel(store, ids, label)
        page.repaint()
        report.add(name, (time.perf_counter() - start) * 1e3, 300, "ms")
    start = time.perf_counter()
    store.undo_stack.undo()
    page.repaint()
    report.add("undo of it", (time.perf_counter() - start) * 1e3, 300, "ms")
    start = time.perf_counter()
    store.flush_journal()
    report.add(
        "journal on disk after bulk edits", (time.perf_counter() - start) * 1e3, 10_000, "ms"
    )
    start = time.perf_counter()
    store.save()
    report.add("save", (time.perf_counter() - start) * 1e3, 2000, "ms")
    one: list[float] = []
    for number in range(50):
        start = time.perf_counter()
        commands.set_field(store, ids[number * 97], "rationale", f"new {number}")
        page.table.viewport().repaint()
        one.append((time.perf_counter() - start) * 1e3)
    report.add("edit of one row, p95", percentile(one, 0.95), 16, "ms")
    app.processEvents()
    page.quality.stop()
    page.statistics.stop()
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
        window.add("peak memory of the window", peak_memory(), 600, "MB")
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

            start = time.perf_counter()
            near_groups(rows)
            seconds = time.perf_counter() - start
            report.add("near-duplicate scan", seconds, 30, "s")
        del rows
        # In a process of its own, so that the memory is the window's alone.
        child = subprocess.run(
            [sys.executable, __file__, "--window", str(folder), str(path)], check=False
        )
        report.missed += child.returncode
    return 1 if report.missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
