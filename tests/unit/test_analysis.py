"""Group laws of the rotations in float64, and the reading of recordings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import expm

from so8t_engine.rotations import analysis
from so8t_engine.workspace.runs import RunStore
from tests.helpers.recordings import write_recording

thetas = arrays(np.float64, 28, elements=st.floats(-1.0, 1.0, width=32))


def scaled(theta: np.ndarray, norm: float) -> np.ndarray:
    """Return the generator of ``theta`` scaled to a Frobenius norm."""
    generator = analysis.generator_matrix(theta)
    size = np.linalg.norm(generator)
    return generator if size == 0 else generator * (norm / size)


@settings(deadline=None)
@given(thetas, st.floats(0.0, 10.0))
def test_exponential_is_a_rotation(theta: np.ndarray, norm: float) -> None:
    generator = scaled(theta, norm)
    np.testing.assert_array_equal(generator, -generator.T)
    matrix = analysis.rotation(generator)
    assert analysis.orthogonality_error(matrix) <= 1e-12
    assert analysis.determinant_error(matrix) <= 1e-12
    np.testing.assert_allclose(matrix, expm(generator), atol=1e-11)


@settings(deadline=None)
@given(thetas, st.floats(0.0, 10.0), st.floats(-1.0, 2.0), st.floats(-1.0, 2.0))
def test_strengths_form_a_one_parameter_group(
    theta: np.ndarray, norm: float, first: float, second: float
) -> None:
    generator = scaled(theta, norm)
    together = analysis.rotation(generator, first) @ analysis.rotation(generator, second)
    np.testing.assert_allclose(together, analysis.rotation(generator, first + second), atol=1e-11)
    np.testing.assert_allclose(analysis.rotation(generator, 0.0), np.eye(8), atol=1e-12)
    np.testing.assert_allclose(
        analysis.rotation(generator, -1.0), analysis.rotation(generator).T, atol=1e-12
    )


@settings(deadline=None)
@given(thetas, thetas)
def test_products_stay_in_the_group(left: np.ndarray, right: np.ndarray) -> None:
    view = analysis.view_block(left, right)
    assert view.in_so8 and view.orthogonality <= 1e-12 and view.determinant <= 1e-12
    np.testing.assert_allclose(view.product, view.cmd @ view.safe, atol=1e-15)
    np.testing.assert_allclose(view.commutator, -analysis.commutator(view.safe, view.cmd))
    assert view.commutator_norm == pytest.approx(np.linalg.norm(view.commutator))
    assert abs(np.trace(view.commutator)) <= 1e-12


@settings(deadline=None)
@given(thetas, st.floats(0.0, 10.0))
def test_angles_agree_between_generator_and_matrix(theta: np.ndarray, norm: float) -> None:
    generator = scaled(theta, norm)
    matrix = analysis.rotation(generator)
    angles = analysis.principal_angles(matrix)
    np.testing.assert_allclose(angles, analysis.generator_angles(generator), atol=1e-6)
    # tr R = 2 Σ cos φ and ‖R − I‖² = Σ 8 sin²(φ/2) tie them to the matrix itself.
    assert np.trace(matrix) == pytest.approx(2 * np.cos(angles).sum(), abs=1e-9)
    expected = np.sqrt((8 * np.sin(angles / 2) ** 2).sum())
    assert analysis.distance_from_identity(matrix) == pytest.approx(expected, abs=1e-9)


def test_known_angles_come_back_largest_first() -> None:
    generator = np.zeros((8, 8))
    for plane, angle in enumerate((0.1, 2.0, 1e-7, 4.0)):
        generator[2 * plane, 2 * plane + 1] = -angle
        generator[2 * plane + 1, 2 * plane] = angle
    expected = [2 * np.pi - 4.0, 2.0, 0.1, 1e-7]
    np.testing.assert_allclose(analysis.generator_angles(generator), expected, atol=1e-15)
    found = analysis.principal_angles(analysis.rotation(generator))
    np.testing.assert_allclose(found, expected, atol=1e-14)
    half_turn = -np.eye(8)
    np.testing.assert_allclose(analysis.principal_angles(half_turn), [np.pi] * 4)


def test_convention_is_the_documented_one() -> None:
    theta = np.zeros(28)
    theta[0] = 0.3  # row 0, column 1
    theta[7] = 0.5  # row 1, column 2: row 0 has seven entries
    generator = analysis.generator_matrix(theta)
    assert generator[0, 1] == 0.3 and generator[1, 0] == -0.3
    assert generator[1, 2] == 0.5 and generator[2, 1] == -0.5
    safe, cmd = np.zeros(28), np.zeros(28)
    safe[0], cmd[7] = 0.3, 0.5
    view = analysis.view_block(safe, cmd)
    x = np.arange(8.0)
    np.testing.assert_allclose(view.product @ x, view.cmd @ (view.safe @ x), atol=1e-14)
    assert view.commutator_norm > 0.1


def test_defects_are_seen() -> None:
    mirror = np.diag([-1.0] + [1.0] * 7)
    assert analysis.orthogonality_error(mirror) == 0.0
    assert analysis.determinant_error(mirror) == pytest.approx(2.0)
    assert analysis.orthogonality_error(1.01 * np.eye(8)) == pytest.approx(0.0201)
    with pytest.raises(ValueError):
        analysis.generator_matrix(np.zeros(27))


def test_untrained_cmd_is_the_identity() -> None:
    view = analysis.view_block(np.full(28, 0.05), np.zeros(28))
    assert view.cmd_is_identity
    assert view.commutator_norm == pytest.approx(0.0, abs=1e-14)
    assert not analysis.view_block(np.zeros(28), np.full(28, 1e-6)).cmd_is_identity


def _run(tmp_path: Path) -> RunStore:
    run = RunStore(tmp_path / "20261123_101500")
    generator = np.random.default_rng(1)
    for step in (0, 20, 40, 100):
        numbers = generator.normal(size=(2, 9, 28)) * 0.001 * step
        write_recording(
            run,
            step,
            {
                "layers.28": (numbers[0, :4], numbers[1, :4]),
                "head": (numbers[0, 4:8], numbers[1, 4:8]),
            },
        )
    return run


def test_timeline_reads_lazily_and_notices_new_steps(tmp_path: Path) -> None:
    run = _run(tmp_path)
    timeline = analysis.Timeline(run)
    assert timeline.steps == [0, 20, 40, 100]
    recording = timeline.recording(100)
    assert recording.gates == ("layers.28", "head")
    assert recording.blocks("head") == 4 and recording.channels(3) == (24, 31)
    assert timeline.recording(100) is recording
    assert not timeline.refresh()
    write_recording(run, 120, {"head": (np.zeros((4, 28)), np.zeros((4, 28)))})
    assert timeline.refresh() and timeline.steps[-1] == 120
    for step in timeline.steps:
        timeline.recording(step)
    for extra in range(200, 200 + 2 * analysis.CACHED_RECORDINGS):
        write_recording(run, extra, {"head": (np.zeros((4, 28)), np.zeros((4, 28)))})
    timeline.refresh()
    for step in timeline.steps:
        timeline.recording(step)
    assert len(timeline._recordings) == analysis.CACHED_RECORDINGS


def test_summary_equals_the_blocks(tmp_path: Path) -> None:
    timeline = analysis.Timeline(_run(tmp_path))
    summary, recording = timeline.summary(100), timeline.recording(100)
    angles = [
        recording.view(gate, block).angles_safe[0]
        for gate in recording.gates
        for block in range(recording.blocks(gate))
    ]
    assert summary.mean_safe == pytest.approx(np.mean(angles))
    gate, block, angle = summary.largest()
    assert angle == pytest.approx(max(angles))
    assert recording.view(gate, block).angles_safe[0] == pytest.approx(max(angles))
    assert summary.orthogonality < 1e-12 and summary.determinant < 1e-12
    assert timeline.summary(0).mean_safe == 0.0


def test_bad_recordings_are_named(tmp_path: Path) -> None:
    run = _run(tmp_path)
    timeline = analysis.Timeline(run)
    with pytest.raises(analysis.RecordingError, match="Step 7 was not recorded"):
        timeline.recording(7)
    recording = timeline.recording(40)
    with pytest.raises(analysis.RecordingError, match=r"no gate 'layers.3'.*layers.28, head"):
        recording.view("layers.3", 0)
    with pytest.raises(analysis.RecordingError, match=r"no block 4.*0 to 3"):
        recording.view("head", 4)
    path = run.rotations_dir / "step-00000020.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(analysis.RecordingError, match="cannot be read"):
        timeline.recording(20)
    write_recording(run, 21, {"head": (np.full((1, 28), np.nan), np.zeros((1, 28)))})
    write_recording(run, 22, {"head": (np.zeros((1, 27)), np.zeros((1, 27)))})
    write_recording(run, 23, {"head": (np.zeros((2, 28)), np.zeros((1, 28)))})
    write_recording(run, 24, {})
    timeline.refresh()
    for step, words in (
        (21, "not finite"),
        (22, r"not \[K, 28\]"),
        (23, "differ"),
        (24, "no gates"),
    ):
        with pytest.raises(analysis.RecordingError, match=words):
            timeline.recording(step)
    with pytest.raises(analysis.RecordingError):
        analysis.load_recording(run.rotations_dir / "absent.safetensors")


def test_reading_imports_neither_torch_nor_scipy() -> None:
    code = (
        "import sys, so8t_engine.rotations.analysis, so8t_engine.evaluation.metrics;"
        "print([m for m in ('torch', 'scipy', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_recordings_of_the_engine_read_the_same(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from so8t_engine.rotations.gate import GateBank
    from so8t_engine.rotations.recording import record

    torch.manual_seed(2)
    bank = GateBank(["layers.1", "head"], 32, "per_block")
    with torch.no_grad():
        bank.theta_safe.normal_(std=0.4)
        bank.theta_cmd.normal_(std=0.4)
    path = record(bank, tmp_path, step=60)
    recording = analysis.load_recording(path)
    assert (recording.step, recording.hidden_size, recording.sharing) == (60, 32, "per_block")
    skew = torch.zeros(8, 8, dtype=torch.float64)
    rows, columns = torch.triu_indices(8, 8, 1)
    skew[rows, columns] = bank.theta_safe[1, 2].double()
    expected = torch.linalg.matrix_exp(skew - skew.T)
    np.testing.assert_allclose(
        recording.view("head", 2).safe, expected.detach().numpy(), atol=1e-12
    )
