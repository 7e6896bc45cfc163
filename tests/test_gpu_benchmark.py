"""The benchmark of a GPU runs from end to end where there is none, and its page says what its results say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import triton_resources
from benchmarks.gpu import cases, contenders, report, work
from benchmarks.gpu.processes import Failed, Processes
from exgate.ops import gpu

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(not gpu.INSTALLED, reason="Triton is not installed")
def test_all_of_it_runs_without_a_gpu(tmp_path: Path):
    pytest.importorskip("matplotlib")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "benchmark.json").read_text())
    assert found["dry"]
    for rows in (rows for section in found["sections"].values() for rows in section["cases"].values()):
        for who, row in rows.items():
            assert "failed" in row or any(isinstance(part, dict) for part in row.values())
            assert "failed" not in row or not who.startswith("exgate"), f"{who}: {row}"
    for section, errors in found["errors"].items():
        mine = [name for name in errors if name.startswith("exgate")]
        assert len(mine) == 2, section
        assert all(max(errors[name].values()) < 2e-2 for name in mine)
    assert set(found["limits"]) == {"TFLOP/s bf16", "GB/s copy", "GB/s read"}
    assert "no figures of a GPU" in done.stdout
    assert all((tmp_path / f"{name}.svg").read_text().count("<path") > 10 for name in ("mlstm", "recurrent"))


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    from benchmarks.gpu.__main__ import main

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu"])
    assert main() == 1
    assert "no GPU" in capsys.readouterr().err


def test_a_late_process_is_ended_and_started_anew():
    processes = Processes(dry=True)
    try:
        processes.start("torch").send_signal(signal.SIGSTOP)  # it never answers
        with pytest.raises(Failed, match="longer than 1 s") as late:
            processes.ask("torch", "machine", 0.0)
        assert late.value.late
        assert processes.running == {}
        with pytest.raises(Failed, match="no attribute 'nothing'"):
            processes.ask("torch", "nothing", 60.0)
        processes.running["torch"].kill()
        processes.running["torch"].wait()
        assert processes.ask("torch", "machine", 60.0)["torch"] == torch.__version__
    finally:
        processes.close()


def test_exact_gradients_are_of_the_numbers_that_contenders_get():
    given = contenders.inputs("mlstm", {"B": 1, "T": 4, "H": 1, "K": 2, "V": 3})
    found = contenders.exact("exp", given)
    shapes = [tuple(given[name].shape) for name in ("v", "q", "k", "v", "i", "f")]
    assert [tuple(x.shape) for x in found] == shapes
    assert all(torch.equal(x, x.bfloat16().float()) for x in given.values())
    # Without normaliser, as simple GLA is: C = sigmoid(f) C + sigmoid(i) k v^T, h = C^T q / sqrt(K).
    q, k, v, i, f = (given[name][0, :, 0].double() for name in "qkvif")
    c = torch.zeros(2, 3, dtype=torch.float64)
    for t in range(4):
        c = f[t].sigmoid() * c + i[t].sigmoid() * torch.outer(k[t], v[t])
        assert torch.allclose(contenders.exact("plain", given)[0][0, t, 0], c.T @ q[t] / 2**0.5)


def _result() -> dict:
    names = list(cases.MLSTM)
    row = {who: {"forward": {"median": 2.0 + n}, "both": {"median": 8.0 + n}, "both bytes": 1e9}
           for n, who in enumerate(names[:-1])}  # fmt: skip
    row[names[-1]] = {"failed": "No backend"}
    size = next(iter(cases.sections(False)[0].cases))
    errors = {names[0]: {"h": 1e-3, "dq": 4e-3}, names[2]: {"h": 1e-3, "dq": 0.2}, names[5]: {"failed": "absent"}}
    limits = {"TFLOP/s bf16": 700.0, "GB/s copy": 3000.0, "GB/s read": 3200.0}
    return {"dry": False, "machine": {"commit": "abc"}, "limits": limits, "seconds": 400, "errors": {"mlstm": errors},
            "sections": {"mlstm": {"title": "mLSTM", "cases": {size: row}}}}  # fmt: skip


def test_wrong_gradients_are_marked_and_reasons_given():
    text = report.text(_result())
    assert "mlstm_kernels limit_chunk (wrong gradient)" in text
    assert "its gradients are not those of the function: dq (worst: dq, 2.0e-01 of the largest number)" in text
    assert "**2.0e-01**" in text
    assert "- SDPA cuDNN: No backend" in text
    assert "| 4 (2.00x) |" in text  # limit_chunk over exgate exp
    assert "| 4 (1.33x) |" not in text  # not over the other gate


def test_operations_and_bytes_are_counted():
    one = work.mlstm(128, 256, 64)
    assert one["forward"] == 4 * 128 * 256 + 64 * (128 + 256)
    assert one["both"] == one["forward"] + 8 * 128 * 256 + 64 * (3 * 128 + 2 * 256)
    assert work.recurrent(64) == {"forward": 8 * 64**2, "both": 24 * 64**2}


def test_the_page_is_what_the_results_say():
    text = report.PAGE.read_text(encoding="utf-8")
    assert report.page(text) == text, "run python -m benchmarks.gpu.report"


def test_the_kept_table_has_no_faults():
    rows = triton_resources.load()
    assert {row.target for row in rows} == set(triton_resources.TARGETS)
    assert [row.kernel for row in rows if row.faults()] == []
