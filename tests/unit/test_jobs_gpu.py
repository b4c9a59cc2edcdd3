"""GPU memory comes back when a job ends, however it ends (needs a CUDA device, no window)."""

from __future__ import annotations

import sys
import time

import pytest

from so8t_engine.jobs.nvml import NvmlReader
from so8t_studio.jobs.process import kill_tree, spawn

HELD = 1 << 30
CHILD = (
    "import sys, torch\n"
    f"held = torch.ones({HELD}, dtype=torch.uint8, device='cuda')\n"
    "torch.cuda.synchronize()\n"
    "print('held', flush=True)\n"
    "sys.stdin.readline()\n"
)


def used(reader: NvmlReader) -> int:
    return reader.read()[0][0].memory_used or 0


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["clean", "killed"])
def test_ten_jobs_leave_no_gpu_memory_behind(how, tmp_path):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    reader = NvmlReader()
    before = used(reader)
    for _ in range(10):
        with (tmp_path / "stderr.txt").open("ab") as stderr:
            child = spawn([sys.executable, "-c", CHILD], stderr)
        assert child.stdout is not None and child.stdin is not None
        assert child.stdout.readline() == b"held\n", (tmp_path / "stderr.txt").read_text()
        assert used(reader) > before + HELD // 2
        if how == "clean":
            child.stdin.write(b"end\n")
        else:
            assert kill_tree(child.pid) == ()
        child.wait(30)
        child.stdin.close()
        child.stdout.close()
    deadline = time.monotonic() + 10
    while used(reader) > before + (64 << 20) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert used(reader) <= before + (64 << 20)
    reader.close()
