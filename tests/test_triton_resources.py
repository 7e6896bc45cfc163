"""The shipped kernels compile for GPUs that are not there and do not spill, and the table that says so is right.

In processes of their own: this one may run Triton's interpreter, which compiles nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import triton_resources
from benchmarks.triton_resources import Row
from exgate.ops import gpu

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not gpu.INSTALLED, reason="Triton is not installed")

TOYS = """
import json
import sys

import torch
import triton
import triton.language as tl

from benchmarks import triton_resources as resources
from exgate.ops import gpu


@triton.jit(do_not_specialize=["n"])
def product(x, y, n, stride, mask, eps, DOT: tl.constexpr, SIZE: tl.constexpr):
    rows, columns = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    a = tl.load(x + rows * stride + columns, mask=rows < n, other=0.0).to(DOT)
    c = tl.dot(a, tl.trans(a)) + eps
    if mask is not None:
        c = tl.where(tl.load(mask + rows), c, 0.0)
    tl.store(y + rows * stride + columns, c, mask=rows < n)


def launch(n, stride, size, mask=None, eps=1e-6, warps=4):
    x, y = torch.empty(size, stride, dtype=torch.bfloat16), torch.empty(size, stride)
    gpu.launch(product, (1,), x, y, n, stride, mask, eps, warps=warps, DOT=tl.bfloat16, SIZE=size)


if __name__ == "__main__":
    with gpu.recording(gpu.SM90) as launches:
        launch(5, 64, 64)
        launch(32, 128, 64, eps=2.0)  # the same kernel: n is not specialised, and both strides divide by 16
        launch(5, 65, 64)
        launch(5, 1, 64)
        launch(5, 64, 64, mask=torch.empty(64, dtype=torch.bool))
        launch(5, 64, 128, warps=1)  # 128 x 128 sums in 32 threads spill
    jobs = [resources.job("sm_90", one) for one in launches]
    alike = []
    with resources.alone():
        for one, job in zip(launches[1:-1], jobs[1:-1]):
            found, _ = resources.compiled(job)
            given = [x.dtype if isinstance(x, torch.Tensor) else x for x in one.arguments]
            really = product.warmup(*given, grid=(1,), **one.constants, **one.options)
            alike.append(all(getattr(found.src, name) == getattr(really.src, name) for name in ("signature", "attrs"))
                         and found.src.constants == really.src.constants)
        rows = [vars(resources.measure(job)) for job in (*jobs[:2], jobs[-1])]
        rows += [vars(resources.measure(resources.job(name, launches[0]))) for name in ("sm_80", "gfx942")]
    print(json.dumps({"same": jobs[0] == jobs[1], "kinds": len(set(jobs)), "alike": alike, "rows": rows}))
"""


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_shipped_kernels_compile_and_do_not_spill():
    done = run("-m", "benchmarks.triton_resources", "--quick")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " 0 with faults" in done.stdout


def test_what_is_compiled_is_what_a_launch_compiles(tmp_path: Path):
    (tmp_path / "toys.py").write_text(TOYS)
    done = run("toys.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same"]
    assert found["kinds"] == 5
    assert found["alike"] == [True] * 4
    first, _, spilt, old, amd = (Row(**row) for row in found["rows"])
    for row in (first, old, amd):
        assert not row.faults()
        assert 16 < row.registers < 256
        assert row.shared >= 64 * 64 * 2  # both operands are one tile
    assert "wgmma bf16" in first.tensor_cores
    assert "mma bf16" in old.tensor_cores
    assert "mfma bf16" in amd.tensor_cores
    assert spilt.spill > 0
    assert spilt.faults() == [f"spills {spilt.spill} bytes"]


def test_faults_are_named():
    assert Row("sm_90", "k", shared=gpu.SM90.shared + 1).faults() == ["232449 bytes of shared memory of 232448"]
    assert Row("gfx942", "k", error="does not compile: why").faults() == ["does not compile: why"]


def test_the_table_shows_the_most_of_all_variants():
    case = {"op": "mlstm", "size": "K=64 V=64", "kind": "bf16", "variant": "exp"}
    options = {"num_warps": 4, "num_stages": 2}
    rows = [Row("sm_90", "_k", [case], {}, options, 100, shared=4096, tensor_cores="8 wgmma bf16"),
            Row("sm_90", "_k", [case], {}, options, 120, shared=2048),
            Row("sm_80", "_k", [case], {}, options, 255, spill=8),
            Row("sm_90", "sums", [case, {**case, "kind": "float32"}], {}, options, 30)]  # fmt: skip
    header, lines = triton_resources.table(rows, ["sm_80", "sm_90", "gfx942"])
    assert header[:4] == ["op", "kernel", "size", "type"]
    assert lines == [
        ["mlstm", "k", "K=64 V=64", "bf16", "**spills 8 bytes**", "120 x 4 warps, 4, wgmma bf16", "-"],
        ["mlstm", "sums", "all", "all", "-", "30 x 4 warps, 0, none", "-"],
    ]
