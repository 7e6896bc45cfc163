"""xLSTM of the 2024 paper: parameter counts, order of the blocks, initial weights, what a config sets."""

import math
from dataclasses import replace

import pytest
import torch

from exgate.layers import FFN, MLSTMLayer, SLSTMLayer
from exgate.models import xlstm


@pytest.mark.parametrize(
    "preset, count",
    [
        (xlstm.xlstm_1_0_125m, 163_806_144),
        (xlstm.xlstm_1_0_350m, 409_290_112),
        (xlstm.xlstm_7_1_125m, 163_690_928),
        (xlstm.xlstm_7_1_350m, 408_436_048),
        (xlstm.xlstm_1_1_tiny, 500_880),
        (xlstm.xlstm_7_1_small, 3_469_368),
    ],
)
def test_parameter_counts(preset, count):
    assert xlstm.build(preset(), device="meta").num_parameters() == count


def test_the_ablation_without_convolution():
    """408.8M parameters in table 8 of the paper."""
    config = replace(xlstm.xlstm_1_0_350m(), conv_kernel=0)
    assert xlstm.build(config, device="meta").num_parameters() == 408_798_592


@pytest.mark.parametrize(
    "preset, places", [(xlstm.xlstm_7_1_125m, [3, 20]), (xlstm.xlstm_7_1_350m, [3, 5, 7, 40, 42, 44])]
)
def test_places_of_slstm(preset, places):
    model = xlstm.build(preset(), device="meta")
    kinds = [type(block.layers[0].layer) for block in model.stack.layers]
    assert [place for place, kind in enumerate(kinds) if kind is SLSTMLayer] == places
    assert kinds.count(MLSTMLayer) == len(kinds) - len(places)
    assert [len(block.layers) for block in model.stack.layers] == [1 + (kind is SLSTMLayer) for kind in kinds]


def test_initial_weights_depend_on_depth_as_published():
    model = xlstm.build(xlstm.Config(vocab_size=400, dim=256, blocks=3, pattern="sms"))
    assert model.embed.weight.std().item() == pytest.approx(math.sqrt(2 / 5 / 256), rel=0.02)
    assert model.head.weight.std().item() == pytest.approx(math.sqrt(2 / 5 / 256), rel=0.02)
    first, middle, last = model.stack.layers
    assert middle.layers[0].layer.down.weight.std().item() == pytest.approx(2 / 3 / 16, rel=0.03)
    assert last.layers[1].layer.down.weight.std().item() == pytest.approx(2 / 3 / 16, rel=0.03)
    for block, power in ((first, 0.3), (last, 1.6)):
        wanted = torch.tensor([5 - 12 * (j / 63) ** power for j in range(64)])
        torch.testing.assert_close(block.layers[0].layer.bias[1, 0].detach(), wanted)
    assert not model.norm.weight.any()  # the factor is 1 + weight


def test_config_reaches_the_layers():
    config = xlstm.Config(
        vocab_size=20, dim=32, blocks=2, pattern="ms", heads=2, conv_kernel=3, proj_factor=3.0, qkv_block=8,
        ffn_factor=2.5, ffn_activation="relu", bias=True, input_gate="sigmoid", forget_gate="exp", norm_eps=1e-4,
        cell_eps=1e-3, dropout=0.1,
    )  # fmt: skip
    model = xlstm.build(config, device="meta")
    mlstm, slstm = (block.layers[0].layer for block in model.stack.layers)
    ffn = model.stack.layers[1].layers[1].layer
    assert isinstance(mlstm, MLSTMLayer)
    assert isinstance(slstm, SLSTMLayer)
    assert isinstance(ffn, FFN)
    assert (mlstm.inner, mlstm.heads, mlstm.eps, mlstm.input_gate) == (128, 2, 1e-3, "sigmoid")
    assert (mlstm.conv.kernel, mlstm.q.size, mlstm.norm.eps) == (3, 8, 1e-4)
    assert mlstm.up.bias is not None
    assert (slstm.heads, slstm.conv.kernel, slstm.forget_gate, slstm.norm.eps) == (2, 3, "exp", 1e-4)
    assert (ffn.hidden, ffn.activation) == (128, "relu")
    assert {module.eps for module in model.modules() if hasattr(module, "offset")} == {1e-4}
    assert all(branch.dropout == 0.1 for block in model.stack.layers for branch in block.layers)


def test_pattern_is_checked_at_once():
    with pytest.raises(ValueError, match="letters m, s"):
        xlstm.Config(vocab_size=20, dim=32, blocks=2, pattern="mt")


def test_the_cells_of_the_formal_languages():
    """No convolution in sLSTM alone, recurrent weights that are not 0, and inner widths that go with dim."""
    config = xlstm.Config(
        vocab_size=9, dim=20, blocks=2, heads=1, pattern="ms", slstm_conv_kernel=0, recurrent_init="uniform", multiple=4
    )
    mlstm, slstm = (block.layers[0].layer for block in xlstm.build(config).stack.layers)
    assert (mlstm.conv.kernel, slstm.conv) == (4, None)
    assert mlstm.inner == 40
    bound = slstm.recurrent.abs().max().item()
    assert 0.9 * 20**-0.5 < bound <= 20**-0.5
    assert xlstm.build(config).stack.layers[1].layers[1].layer.hidden == 28
    with pytest.raises(ValueError, match="recurrent_init is 'ones'; it should be one of 'zeros', 'uniform'"):
        xlstm.build(xlstm.Config(vocab_size=9, dim=20, blocks=1, pattern="s", recurrent_init="ones"))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"dropout": 2}, r"xlstm: dropout is 2; it should be from 0 to below 1"),
        ({"heads": 0}, r"xlstm: heads is 0; it should be at least 1"),
        ({"input_gate": "foo"}, r"xlstm: input_gate is 'foo'; it should be one of 'exp', 'sigmoid'"),
        ({"recurrent_init": "foo"}, r"xlstm: recurrent_init is 'foo'"),
        ({"ffn_activation": "foo"}, r"xlstm: ffn_activation is 'foo'"),
    ],
)
def test_a_mistake_is_found_when_the_config_is_made(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        xlstm.Config(vocab_size=9, dim=8, blocks=2, **fields)
