"""Recorded rotations, read and measured with numpy alone (the window never imports torch).

Column vectors throughout: ``y = R_cmd R_safe x`` for each block of 8 channels, ``R = exp(A)`` with
``A = θ − θᵀ``. Recordings hold the strict upper triangle of θ, row-major, in float32; everything
here is computed from it in float64.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open

from so8t_engine.errors import WorkspaceError
from so8t_engine.workspace.runs import RunStore

Array = NDArray[np.float64]

SIZE = 8
FREE_NUMBERS = SIZE * (SIZE - 1) // 2
HEALTH_LIMIT = 1e-5
"""Largest max|RᵀR − I| and |det R − 1| that still counts as "in SO(8)" in float32."""
CACHED_RECORDINGS = 6
CONVENTION = "column vectors; y = R_cmd R_safe x; A = theta - theta^T; R = exp(A)"
"""How stored generators are meant; written into every file that holds some."""

_UPPER = np.triu_indices(SIZE, 1)


class RecordingError(WorkspaceError):
    """A recording of the generators that is missing, damaged or of another kind."""


def generator_matrix(theta: ArrayLike) -> Array:
    """Return ``A = θ − θᵀ`` ``[..., 8, 8]`` of the free numbers ``[..., 28]``, in float64.

    Raises:
        ValueError: if the last axis is not 28 long.
    """
    free = np.asarray(theta, dtype=np.float64)
    if free.ndim == 0 or free.shape[-1] != FREE_NUMBERS:
        raise ValueError(f"a generator has {FREE_NUMBERS} free numbers, not shape {free.shape}")
    out = np.zeros((*free.shape[:-1], SIZE, SIZE))
    out[..., _UPPER[0], _UPPER[1]] = free
    out[..., _UPPER[1], _UPPER[0]] = -free
    return out


def rotation(generator: ArrayLike, strength: float = 1.0) -> Array:
    """Return ``exp(strength · A)`` ``[..., 8, 8]`` of skew-symmetric matrices ``[..., 8, 8]``.

    ``iA`` is Hermitian, so with ``iA = V diag(w) V*`` the exponential is ``V diag(e^{−iw}) V*``,
    which is orthogonal to rounding for every norm, unlike a truncated series.
    """
    values, vectors = np.linalg.eigh(1j * np.asarray(generator, dtype=np.float64))
    turned = vectors * np.exp(-1j * strength * values)[..., None, :]
    return np.asarray((turned @ np.swapaxes(vectors.conj(), -1, -2)).real)


def generator_angles(generator: ArrayLike) -> Array:
    """Return the four angles ``[..., 4]`` in radians by which ``exp(A)`` turns, largest first.

    They are folded into [0, π], because a plane cannot tell a turn by φ from one by 2π − φ.
    """
    values = np.linalg.eigvalsh(1j * np.asarray(generator, dtype=np.float64))
    planes = np.abs(values[..., SIZE // 2 :])
    folded = np.abs(np.remainder(planes + np.pi, 2 * np.pi) - np.pi)
    return np.asarray(np.sort(folded, axis=-1)[..., ::-1])


def principal_angles(matrix: ArrayLike) -> Array:
    """Return the four rotation angles ``[..., 4]`` in radians of ``[..., 8, 8]``, largest first.

    The eigenvalues of a rotation are e^{±iφ}; a plane that stands still has φ = 0. Read from the
    phase and not from the cosine, so that small angles keep their digits.
    """
    phases = np.abs(np.angle(np.linalg.eigvals(np.asarray(matrix, dtype=np.float64))))
    return np.asarray(np.sort(phases, axis=-1)[..., ::-1][..., ::2])


def orthogonality_error(matrix: ArrayLike) -> Array:
    """Return max|RᵀR − I| ``[...]`` of matrices ``[..., 8, 8]``."""
    r = np.asarray(matrix, dtype=np.float64)
    defect = np.swapaxes(r, -1, -2) @ r - np.eye(SIZE)
    return np.asarray(np.abs(defect).max(axis=(-1, -2)))


def determinant_error(matrix: ArrayLike) -> Array:
    """Return |det R − 1| ``[...]`` of matrices ``[..., 8, 8]``; a reflection reads 2."""
    return np.asarray(np.abs(np.linalg.det(np.asarray(matrix, dtype=np.float64)) - 1.0))


def commutator(cmd: ArrayLike, safe: ArrayLike) -> Array:
    """Return ``R_cmd R_safe − R_safe R_cmd`` ``[..., 8, 8]``: zero where the order is no matter."""
    a, b = np.asarray(cmd, dtype=np.float64), np.asarray(safe, dtype=np.float64)
    return np.asarray(a @ b - b @ a)


def frobenius(matrix: ArrayLike) -> Array:
    """Return the Frobenius norm ``[...]`` of matrices ``[..., 8, 8]``."""
    return np.asarray(np.linalg.norm(np.asarray(matrix, dtype=np.float64), axis=(-1, -2)))


def distance_from_identity(matrix: ArrayLike) -> Array:
    """Return ‖R − I‖_F ``[...]``: 0 for the identity, at most 4√2 in SO(8)."""
    return frobenius(np.asarray(matrix, dtype=np.float64) - np.eye(SIZE))


class BlockView(Struct, frozen=True, kw_only=True, eq=False):
    """The rotations of one block of one gate at one step.

    Attributes:
        safe: R_safe ``[8, 8]``.
        cmd: R_cmd ``[8, 8]``.
        product: R_cmd R_safe ``[8, 8]``.
        commutator: R_cmd R_safe − R_safe R_cmd ``[8, 8]``.
        angles_safe: four angles of R_safe in radians, largest first.
        angles_cmd: likewise of R_cmd.
        angles_product: likewise of the product.
        orthogonality: largest max|RᵀR − I| of the three rotations, in float64.
        determinant: largest |det R − 1| of the three rotations.
        commutator_norm: Frobenius norm of the commutator.
        distance: ‖R_cmd R_safe − I‖_F.
    """

    safe: Array
    cmd: Array
    product: Array
    commutator: Array
    angles_safe: tuple[float, ...]
    angles_cmd: tuple[float, ...]
    angles_product: tuple[float, ...]
    orthogonality: float
    determinant: float
    commutator_norm: float
    distance: float

    @property
    def in_so8(self) -> bool:
        """True if orthogonality and determinant are within :data:`HEALTH_LIMIT`."""
        return self.orthogonality <= HEALTH_LIMIT and self.determinant <= HEALTH_LIMIT

    @property
    def cmd_is_identity(self) -> bool:
        """True if R_cmd was not moved at all."""
        return bool(np.array_equal(self.cmd, np.eye(SIZE))) or max(self.angles_cmd) < 1e-12

    def colour_limit(self, *, stretch: bool) -> float:
        """Return the end of the colour scale that all four matrices share.

        ±1 shows rotations as they are; stretched, it is the largest entry off the diagonal, so
        that the small turns of a lightly trained gate can be seen (the diagonal then saturates).
        """
        if not stretch:
            return 1.0
        off = ~np.eye(SIZE, dtype=bool)
        matrices = (self.safe, self.cmd, self.product, self.commutator)
        largest = max(float(np.abs(matrix[off]).max()) for matrix in matrices)
        return largest if largest > 1e-9 else 1.0


def view_block(theta_safe: ArrayLike, theta_cmd: ArrayLike, strength: float = 1.0) -> BlockView:
    """Return everything about one block from its two times 28 free numbers."""
    pair = rotation(generator_matrix(np.stack([np.asarray(theta_safe), theta_cmd])), strength)
    safe, cmd = pair[0], pair[1]
    product = cmd @ safe
    three = np.stack([safe, cmd, product])
    angles = principal_angles(three)
    difference = commutator(cmd, safe)
    return BlockView(
        safe=safe,
        cmd=cmd,
        product=product,
        commutator=difference,
        angles_safe=tuple(angles[0].tolist()),
        angles_cmd=tuple(angles[1].tolist()),
        angles_product=tuple(angles[2].tolist()),
        orthogonality=float(orthogonality_error(three).max()),
        determinant=float(determinant_error(three).max()),
        commutator_norm=float(frobenius(difference)),
        distance=float(distance_from_identity(product)),
    )


class Summary(Struct, frozen=True, kw_only=True, eq=False):
    """One recording in figures.

    Attributes:
        step: optimizer step.
        gates: names in order.
        safe: largest angle of R_safe in radians by gate, each ``[K]``.
        cmd: likewise for R_cmd.
        mean_safe: mean of all largest angles of R_safe, in radians.
        mean_cmd: likewise for R_cmd.
        orthogonality: worst max|RᵀR − I| over all gates and blocks, in float64.
        determinant: worst |det R − 1|.
    """

    step: int
    gates: tuple[str, ...]
    safe: dict[str, Array]
    cmd: dict[str, Array]
    mean_safe: float
    mean_cmd: float
    orthogonality: float
    determinant: float

    def largest(self, side: str = "safe") -> tuple[str, int, float]:
        """Return gate, block and angle (radians) of the largest turn of ``safe`` or ``cmd``."""
        angles = self.safe if side == "safe" else self.cmd
        best = max(self.gates, key=lambda gate: float(angles[gate].max()))
        block = int(angles[best].argmax())
        return best, block, float(angles[best][block])


class Recording(Struct, frozen=True, kw_only=True, eq=False):
    """All generators of all gates at one step.

    Attributes:
        step: optimizer step.
        sharing: ``per_block`` or ``shared``.
        hidden_size: width D = 8K of the model.
        gates: names in order, e.g. ``layers.20`` … ``head``.
        safe: free numbers of R_safe by gate, ``[K, 28]`` float32 (``[1, 28]`` when shared).
        cmd: likewise for R_cmd.
    """

    step: int
    sharing: str
    hidden_size: int
    gates: tuple[str, ...]
    safe: dict[str, NDArray[np.float32]]
    cmd: dict[str, NDArray[np.float32]]

    def blocks(self, gate: str) -> int:
        """Return how many rotations the gate holds (1 when shared)."""
        return len(self.safe[gate])

    def channels(self, block: int) -> tuple[int, int]:
        """Return the first and last channel of a block, from 0."""
        return block * SIZE, block * SIZE + SIZE - 1

    def view(self, gate: str, block: int, strength: float = 1.0) -> BlockView:
        """Return the rotations of one block.

        Raises:
            RecordingError: if there is no such gate or block.
        """
        if gate not in self.safe:
            raise RecordingError(
                f"The recording of step {self.step} has no gate {gate!r}.",
                next_step=f"Use one of: {', '.join(self.gates)}.",
            )
        if not 0 <= block < self.blocks(gate):
            raise RecordingError(
                f"Gate {gate} has no block {block}.",
                next_step=f"Use a block from 0 to {self.blocks(gate) - 1}.",
            )
        return view_block(self.safe[gate][block], self.cmd[gate][block], strength)

    def summary(self) -> Summary:
        """Return angles of every block and the worst health; takes about 10 µs a rotation."""
        safe: dict[str, Array] = {}
        cmd: dict[str, Array] = {}
        orthogonality = determinant = 0.0
        for gate in self.gates:
            for numbers, into in ((self.safe[gate], safe), (self.cmd[gate], cmd)):
                generator = generator_matrix(numbers)
                into[gate] = generator_angles(generator)[:, 0]
                matrices = rotation(generator)
                orthogonality = max(orthogonality, float(orthogonality_error(matrices).max()))
                determinant = max(determinant, float(determinant_error(matrices).max()))
        return Summary(
            step=self.step,
            gates=self.gates,
            safe=safe,
            cmd=cmd,
            mean_safe=float(np.concatenate(list(safe.values())).mean()),
            mean_cmd=float(np.concatenate(list(cmd.values())).mean()),
            orthogonality=orthogonality,
            determinant=determinant,
        )


def load_recording(path: Path) -> Recording:
    """Read one recording.

    Raises:
        RecordingError: if the file is missing, damaged or not a recording.
    """
    try:
        with safe_open(path, framework="numpy") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: np.array(stream.get_tensor(name)) for name in stream.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RecordingError(
            f"The recording {path.name} cannot be read: {error}.",
            next_step="Choose another step of the run.",
        ) from error
    try:
        gates = tuple(name for name in metadata["gates"].split(",") if name)
        recording = Recording(
            step=int(metadata["step"]),
            sharing=metadata["sharing"],
            hidden_size=int(metadata["hidden_size"]),
            gates=gates,
            safe={gate: tensors[f"{gate}.safe"] for gate in gates},
            cmd={gate: tensors[f"{gate}.cmd"] for gate in gates},
        )
    except (KeyError, ValueError) as error:
        raise RecordingError(
            f"{path.name} is not a recording of rotations: {error} is missing or wrong.",
            next_step="Choose a file from the folder rotations/ of a run.",
        ) from error
    _check(recording, path)
    return recording


def _check(recording: Recording, path: Path) -> None:
    """Refuse shapes and numbers from which no rotation can be built."""
    if not recording.gates:
        raise RecordingError(
            f"{path.name} holds no gates.",
            next_step="Train with gates switched on to learn rotations.",
        )
    for gate in recording.gates:
        safe, cmd = recording.safe[gate], recording.cmd[gate]
        if safe.ndim != 2 or safe.shape[-1] != FREE_NUMBERS or not len(safe):
            raise RecordingError(f"Gate {gate} of {path.name} has shape {safe.shape}, not [K, 28].")
        if safe.shape != cmd.shape:
            raise RecordingError(
                f"Gate {gate} of {path.name}: R_safe {safe.shape} and R_cmd {cmd.shape} differ."
            )
        if not (np.isfinite(safe).all() and np.isfinite(cmd).all()):
            raise RecordingError(
                f"Gate {gate} of {path.name} holds numbers that are not finite.",
                next_step="The training diverged here; look at an earlier step.",
            )


class Timeline:
    """The recordings of one run in step order, read when asked for. Not thread-safe."""

    def __init__(self, run: RunStore) -> None:
        self.run = run
        self._files: dict[int, Path] = {}
        self._recordings: OrderedDict[int, Recording] = OrderedDict()
        self._summaries: dict[int, Summary] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Look for new recordings; return True if the list of steps changed."""
        found: dict[int, Path] = {}
        for path in self.run.rotation_files():
            number = path.stem.removeprefix("step-")
            if number.isdigit():
                found[int(number)] = path
        changed = found.keys() != self._files.keys()
        self._files = dict(sorted(found.items()))
        return changed

    @property
    def steps(self) -> list[int]:
        """The recorded steps, ascending."""
        return list(self._files)

    def recording(self, step: int) -> Recording:
        """Return the recording of a step from the cache or from disk.

        Raises:
            RecordingError: if there is none or it cannot be read.
        """
        if step in self._recordings:
            self._recordings.move_to_end(step)
            return self._recordings[step]
        if step not in self._files:
            raise RecordingError(
                f"Step {step} was not recorded.",
                next_step=f"Recorded steps: {', '.join(map(str, self.steps)) or 'none'}.",
            )
        recording = load_recording(self._files[step])
        self._recordings[step] = recording
        while len(self._recordings) > CACHED_RECORDINGS:
            self._recordings.popitem(last=False)
        return recording

    def summary(self, step: int) -> Summary:
        """Return the figures of a step; computed once.

        Raises:
            RecordingError: if the step cannot be read.
        """
        if step not in self._summaries:
            self._summaries[step] = self.recording(step).summary()
        return self._summaries[step]
