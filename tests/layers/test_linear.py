"""The block-diagonal product against a dense one."""

import pytest
import torch

from exgate.layers.linear import HeadwiseLinear


def test_is_a_block_diagonal_product():
    layer, x = HeadwiseLinear(12, 3, bias=True), torch.randn(2, 5, 12)
    with torch.no_grad():
        layer.bias.normal_()
    torch.testing.assert_close(layer(x), x @ torch.block_diag(*layer.weight).T + layer.bias)


def test_blocks_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"dim=10 is not a multiple of blocks=4"):
        HeadwiseLinear(10, 4)
