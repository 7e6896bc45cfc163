"""Initial weights follow their formulas."""

import math
import subprocess
import sys

import pytest
import torch

from exgate.layers.init import orthogonal_, power_law_, ramp_, small_, wang_


def test_standard_deviations():
    weight = torch.empty(400, 500)
    assert small_(weight, 100).std().item() == pytest.approx(math.sqrt(2 / 500), rel=0.02)
    assert wang_(weight, 100, 8).std().item() == pytest.approx(2 / 8 / 10, rel=0.02)


def test_ramp():
    torch.testing.assert_close(ramp_(torch.empty(4)), torch.tensor([3.0, 4.0, 5.0, 6.0]))
    assert ramp_(torch.empty(1)).item() == 3


@pytest.mark.parametrize("block, power", [(0, 0.3), (2, 0.3 + 1.3 * 2 / 3), (3, 1.6)])
def test_power_law_depends_on_the_block(block, power):
    bias = power_law_(torch.empty(2, 5), block, 4)
    wanted = torch.tensor([5 - 12 * (j / 4) ** power for j in range(5)])
    torch.testing.assert_close(bias, wanted.expand(2, 5))
    assert bias[0, 0] == 5
    assert bias[0, -1] == -7


def test_power_law_with_one_cell_per_head_or_one_block_is_finite():
    assert power_law_(torch.empty(4, 1), 0, 1).tolist() == [[5.0]] * 4
    torch.testing.assert_close(power_law_(torch.empty(1, 3), 0, 1), power_law_(torch.empty(1, 3), 0, 7))


def test_orthogonal_in_any_type():
    weight = orthogonal_(torch.empty(8, 4, dtype=torch.bfloat16), 2.0).float()
    torch.testing.assert_close(weight.T @ weight, 4 * torch.eye(4), rtol=0, atol=0.1)
    assert orthogonal_(torch.empty(8, 4, device="meta")).is_meta


def test_shapes_alone_draw_no_numbers():
    """On the meta device PyTorch would draw them in Python, and load its compiler for it, which takes seconds."""
    probe = (
        "import sys, torch; from exgate.models import xlstm;"
        "config = xlstm.Config(vocab_size=9, dim=32, blocks=2, pattern='ms');"
        "model = xlstm.build(config, device='meta');"
        "assert all(parameter.is_meta for parameter in model.parameters());"
        "loaded = sorted(name for name in sys.modules if name in ('sympy', 'torch._dynamo'));"
        "assert not loaded, loaded"
    )
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
