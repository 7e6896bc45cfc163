"""Running Triton's kernels without a GPU, and what is said where they cannot run."""

import pytest
import torch

from exgate.ops import gpu, mlstm
from tests.ops.contract import ground

pytestmark = pytest.mark.skipif(not gpu.INSTALLED, reason="Triton is not installed")


@pytest.fixture
def compiled(monkeypatch) -> None:
    """As where nothing is interpreted."""
    monkeypatch.setattr(gpu, "interpreted", lambda: False)


def _inputs(kind: torch.dtype) -> list[torch.Tensor]:
    q, i = torch.empty(1, 8, 2, 16, dtype=kind), torch.empty(1, 8, 2)
    return [q, q, q, i, i]


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    ("kind", "device", "setting", "wanted"),
    [
        (torch.bfloat16, gpu.SM90, "none", ("bf16", "ieee")),
        (torch.bfloat16, gpu.GFX942, "none", ("bf16", "ieee")),
        (torch.float16, gpu.SM90, "none", ("fp32", "tf32")),
        (torch.float32, gpu.SM80, "none", ("fp32", "tf32x3")),
        (torch.float32, gpu.SM80, "tf32", ("fp32", "tf32")),
        (torch.float32, gpu.GFX942, "none", ("fp32", "ieee")),
        (torch.float32, gpu.GFX942, "tf32", ("fp32", "tf32")),
    ],
)
def test_how_products_are_made(kind, device, setting, wanted):
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, setting
    try:
        with gpu.recording(device):
            found = gpu.products(kind, torch.device("cpu"))
    finally:
        matmul.fp32_precision = before
    assert (str(found["DOT"]), found["PRECISION"]) == wanted


def test_recording_runs_nothing_and_lists_what_would_run():
    with gpu.recording(gpu.SM90) as launches:
        h, state = mlstm(*_inputs(torch.bfloat16), backend="triton")
    assert [launch.kernel.__name__ for launch in launches] == ["gates", "states", "outputs"]
    assert h.shape == (1, 8, 2, 16)
    assert state.c.shape == (1, 2, 16, 16)


def test_the_interpreter_is_asked_for():
    """On the CPU nothing takes it by itself: it is slower than anything else."""
    with ground("triton"):
        assert (gpu.refuses(torch.zeros(1)) is None) == (not torch.cuda.is_available())
    assert "not on a GPU" in (gpu.refuses(torch.zeros(1)) or "")


@pytest.mark.usefixtures("compiled")
def test_an_interpreter_that_comes_too_late():
    with pytest.raises(RuntimeError, match="Set TRITON_INTERPRET=1 when Python starts"), gpu.interpreter():
        pass
