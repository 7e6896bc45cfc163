"""xLSTM 7B: parameter counts, what a config sets, initial weights, hybrids."""

import math

import pytest

from exgate.layers import FFN, MLSTM7BLayer, SLSTMLayer
from exgate.models import xlstm_7b


def test_parameter_counts():
    assert xlstm_7b.build(xlstm_7b.xlstm_7b(), device="meta").num_parameters() == 6_865_424_896
    assert xlstm_7b.build(xlstm_7b.xlstm_7b_tiny(), device="meta").num_parameters() == 923_552


def test_the_published_checkpoint_of_164_million():
    config = xlstm_7b.Config(vocab_size=50304, dim=768, blocks=12, heads=6, qk_dim=384, v_dim=768, ffn_dim=2112)
    model = xlstm_7b.build(config, device="meta")
    assert model.num_parameters() == 164_110_224
    assert len(model.state_dict()) == 183 - 12  # ours keeps the gate and the factor of each FFN in one weight


def test_initial_weights():
    config = xlstm_7b.Config(vocab_size=400, dim=256, blocks=4, heads=4, qk_dim=128, v_dim=256, ffn_dim=320)
    model = xlstm_7b.build(config)
    assert model.embed.weight.std().item() == pytest.approx(math.sqrt(2 / 5 / 256), rel=0.02)
    assert model.head.weight.std().item() == pytest.approx(math.sqrt(2 / 5 / 256), rel=0.02)
    cell, ffn = (branch.layer for branch in model.stack.layers[2].layers)
    assert cell.out.weight.std().item() == pytest.approx(2 / 4 / 16, rel=0.03)
    assert ffn.down.weight.std().item() == pytest.approx(2 / 4 / 16, rel=0.03)
    assert (cell.igate.bias == -10).all()
    assert (model.norm.weight == 1).all()


def test_config_reaches_the_layers():
    config = xlstm_7b.Config(
        vocab_size=20, dim=32, blocks=2, heads=2, qk_dim=8, v_dim=16, ffn_dim=48, pattern="ms", gate_soft_cap=7.0,
        soft_cap=9.0, conv_kernel=3, ffn_activation="gelu", bias=True, input_gate="sigmoid", forget_gate="exp",
        norm_eps=1e-4, cell_eps=1e-3,
    )  # fmt: skip
    model = xlstm_7b.build(config, device="meta")
    (mlstm, ffn), (slstm, _) = ([branch.layer for branch in block.layers] for block in model.stack.layers)
    assert isinstance(mlstm, MLSTM7BLayer)
    assert isinstance(slstm, SLSTMLayer)
    assert isinstance(ffn, FFN)
    assert (mlstm.q.weight.shape, mlstm.v.weight.shape) == ((8, 32), (16, 32))
    assert (mlstm.gate_soft_cap, mlstm.eps, mlstm.input_gate) == (7.0, 1e-3, "sigmoid")
    assert (slstm.conv.kernel, slstm.forget_gate, slstm.norm.offset) == (3, "exp", False)
    assert (ffn.hidden, ffn.activation, model.soft_cap) == (48, "gelu", 9.0)
    assert mlstm.q.bias is not None
    assert ffn.up.bias is not None
    assert {module.eps for module in model.modules() if hasattr(module, "offset")} == {1e-4}


def test_published_defaults():
    model = xlstm_7b.build(xlstm_7b.xlstm_7b(), device="meta")
    assert model.soft_cap == 30
    cell = model.stack.layers[0].layers[0].layer
    assert (cell.gate_soft_cap, cell.eps, cell.norm.eps, cell.norm.offset, cell.norm.rms) == (
        15,
        1e-6,
        1e-6,
        False,
        False,
    )
    assert (
        xlstm_7b.build(xlstm_7b.xlstm_7b_tiny(pattern="ms"), device="meta").stack.layers[1].layers[0].layer.conv is None
    )
