"""Mamba: parameter counts of the published tables, what a config sets, initial weights."""

import pytest

from exgate.models import mamba


@pytest.mark.parametrize(
    ("preset", "count"),
    [(mamba.mamba_125m, 167_787_264), (mamba.mamba_350m, 423_052_288), (mamba.mamba_tiny, 532_352)],
)
def test_parameter_counts(preset, count):
    assert mamba.build(preset(), device="meta").num_parameters() == count


def test_config_reaches_the_layers():
    config = mamba.Config(
        vocab_size=20, dim=32, blocks=2, state_size=3, conv_kernel=2, inner_dim=48, dt_rank=5, bias=True, norm_eps=1e-3,
        soft_cap=7.0, dropout=0.25,
    )  # fmt: skip
    model = mamba.build(config, device="meta")
    for block in model.stack.layers:
        layer = block.layer
        assert (layer.A_log.shape, layer.conv.kernel, layer.dt_rank, layer.blocks) == ((48, 3), 2, 5, 2)
        assert layer.in_proj.bias is not None
        assert (block.norm.eps, block.dropout) == (1e-3, 0.25)
    assert (model.norm.eps, model.soft_cap, model.dropout) == (1e-3, 7.0, 0.25)


def test_initial_weights():
    model = mamba.build(mamba.Config(vocab_size=400, dim=128, blocks=2))
    for table in (model.embed, model.head):
        assert table.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert all((block.norm.weight == 1).all() for block in model.stack.layers)
