"""Llama: the parameter counts of the xLSTM paper's baselines, what a config sets, initial weights, a growing state."""

import math

import pytest
import torch

from exgate.layers import FFN, AttentionLayer
from exgate.models import llama, xlstm, xlstm_7b
from exgate.ops.state import flatten


def test_parameter_counts():
    """162.2M and 406.6M in the paper's tables."""
    assert llama.build(llama.llama_125m(), device="meta").num_parameters() == 162_220_800
    assert llama.build(llama.llama_350m(), device="meta").num_parameters() == 406_635_520
    assert llama.build(llama.llama_tiny(), device="meta").num_parameters() == 918_912


@pytest.mark.parametrize(("dim", "hidden"), [(768, 2048), (1024, 2752), (1536, 4096), (96, 256), (97, 320)])
def test_width_of_the_ffn(dim, hidden):
    model = llama.build(llama.Config(vocab_size=9, dim=dim, blocks=1, heads=1), device="meta")
    assert model.stack.layers[0].layers[1].layer.hidden == hidden


def test_config_reaches_the_layers():
    config = llama.Config(
        vocab_size=20, dim=32, blocks=2, heads=4, kv_heads=2, ffn_dim=48, window=7, rope_theta=500.0, dropout=0.5,
        soft_cap=9.0, ffn_activation="gelu", norm_eps=1e-4,
    )  # fmt: skip
    model = llama.build(config, device="meta")
    attention, ffn = (branch.layer for branch in model.stack.layers[1].layers)
    assert isinstance(attention, AttentionLayer)
    assert isinstance(ffn, FFN)
    assert (attention.heads, attention.kv_heads, attention.window, attention.rope_theta) == (4, 2, 7, 500.0)
    assert (ffn.hidden, ffn.activation, ffn.gated, model.soft_cap) == (48, "gelu", True, 9.0)
    assert {module.eps for module in model.modules() if hasattr(module, "offset")} == {1e-4}
    assert {branch.dropout for block in model.stack.layers for branch in block.layers} == {0.5}


def test_initial_weights():
    model = llama.build(llama.Config(vocab_size=400, dim=256, blocks=4, heads=4))
    attention, ffn = (branch.layer for branch in model.stack.layers[2].layers)
    for weight in (model.embed.weight, model.head.weight, attention.q.weight, ffn.up.weight):
        assert weight.std().item() == pytest.approx(math.sqrt(2 / 5 / 256), rel=0.03)
    for weight in (attention.out.weight, ffn.down.weight):
        assert weight.std().item() == pytest.approx(2 / 8 / 16, rel=0.03)  # two branches a block


def test_the_state_grows_unless_there_is_a_window():
    for window, length in ((None, 30), (8, 7)):
        model = llama.build(llama.Config(vocab_size=20, dim=32, blocks=1, heads=4, kv_heads=2, window=window))
        state = None
        for _ in range(3):
            _, state = model(torch.zeros(1, 10, dtype=torch.long), state)
        assert sum(tensor.numel() for tensor in flatten(state).values()) == length * 2 * 16 + 1


def test_a_state_that_grows_is_not_recorded():
    small = {"vocab_size": 20, "dim": 32, "blocks": 2}
    seven = {**small, "heads": 2, "qk_dim": 16, "v_dim": 32, "ffn_dim": 48}
    assert not llama.build(llama.Config(heads=4, **small)).replayable
    assert not xlstm.build(xlstm.Config(pattern="ma", **small)).replayable
    assert not xlstm_7b.build(xlstm_7b.Config(pattern="ma", **seven)).replayable
    assert xlstm_7b.build(xlstm_7b.Config(pattern="ms", **seven)).replayable


def test_errors():
    with pytest.raises(ValueError, match="llama: blocks is 0"):
        llama.Config(vocab_size=20, dim=32, blocks=0, heads=4)
