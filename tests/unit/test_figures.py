"""Figures: right content in the file, same bytes for the same input, and clear refusals."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from so8t_engine.errors import SpecError
from so8t_engine.events import Error, Result, decode_event
from so8t_engine.jobs import figures
from so8t_engine.rotations.analysis import Timeline
from so8t_engine.workspace.runs import RunStore
from tests.helpers.recordings import write_recording


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "20261123_101500")
    generator = np.random.default_rng(4)
    for step in (0, 40):
        safe = generator.normal(size=(3, 28)) * 0.005 * step
        safe[1] *= 3
        write_recording(store, step, {"layers.29": (safe / 2, safe * 0), "head": (safe, safe * 0)})
    return store


def test_png_and_svg_are_written_and_repeat(run: RunStore, tmp_path: Path) -> None:
    for suffix in (".png", ".svg"):
        first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        for out in (first, second):
            assert figures.run(run.root, out, gate="head", block=1, step=40) == 0
        assert first.read_bytes() == second.read_bytes()
        assert first.stat().st_size > 10_000
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    root = ET.fromstring((tmp_path / "a.svg").read_text("utf-8"))
    assert root.tag.endswith("svg")
    assert len(root.findall(".//{http://www.w3.org/2000/svg}image")) >= 4


def test_figure_shows_the_matrices_and_says_where_from(run: RunStore) -> None:
    recording = Timeline(run).recording(40)
    view = recording.view("head", 1)
    figure = figures.draw_rotations(recording, "head", 1, run_id=run.id)
    shown = [axis.images[0].get_array() for axis in figure.axes[:4]]
    for drawn, matrix in zip(
        shown, (view.safe, view.cmd, view.product, view.commutator), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(drawn), matrix)
    assert {image.get_clim() for axis in figure.axes[:4] for image in axis.images} == {(-1.0, 1.0)}
    assert figure.axes[0].get_ylabel() == "output channel"
    assert figure.axes[2].get_xticklabels()[0].get_text() == "8"
    assert "20261123_101500: head, block 1, step 40" in figure.get_suptitle()
    stretched = view.colour_limit(stretch=True)
    assert 0 < stretched < 1


def test_defaults_choose_last_step_and_largest_angle(run: RunStore, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from so8t_engine.jobs import figures;"
        "sys.exit(figures.run(Path(sys.argv[1]), Path(sys.argv[2]), events=True))"
    )
    out = tmp_path / "new folder" / "図.svg"
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.root), str(out)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr.decode()
    results = [
        event
        for line in done.stdout.splitlines()
        if isinstance(event := decode_event(line), Result)
    ]
    assert results[0].data == {"path": str(out), "gate": "head", "block": 1, "step": 40}
    assert out.exists()


def test_refusals_name_what_to_do(
    run: RunStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recording = Timeline(run).recording(40)
    with pytest.raises(SpecError, match=r"\.png, \.svg"):
        figures.save_figure(figures.draw_rotations(recording, "head", 0), tmp_path / "a.bmp")
    assert figures.run(tmp_path / "20260101_000000", tmp_path / "a.png") == 5
    code = (
        "import sys; from pathlib import Path; from so8t_engine.jobs import figures;"
        "sys.exit(figures.run(Path(sys.argv[1]), Path('a.png'), gate='layers.3', events=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run.root)], capture_output=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 5
    errors = [
        event for line in done.stdout.splitlines() if isinstance(event := decode_event(line), Error)
    ]
    assert "no gate 'layers.3'" in errors[0].what
    blocked = tmp_path / "file"
    blocked.write_text("x")
    assert figures.run(run.root, blocked / "a.png") == 5
    assert not list(tmp_path.glob("**/*.tmp"))
