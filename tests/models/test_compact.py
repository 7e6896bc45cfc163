"""Models with weights in few bits: near the model they come from, smaller, and told apart from it."""

import copy

import pytest
import torch

from exgate.layers.linear import CompactEmbedding, CompactLinear
from exgate.models import llama, lstm, rwkv4, xlstm, xlstm_7b
from exgate.models.compact import compact

MODELS = {
    "xlstm": lambda: xlstm.build(xlstm.xlstm_1_1_tiny()),
    "tied": lambda: xlstm.build(xlstm.Config(vocab_size=61, dim=64, blocks=1, tie_embeddings=True)),
    "7b": lambda: xlstm_7b.build(xlstm_7b.xlstm_7b_tiny()),
    "lstm": lambda: lstm.build(lstm.lstm_tiny()),
    "llama": lambda: llama.build(llama.llama_tiny()),
    "rwkv4": lambda: rwkv4.build(rwkv4.rwkv4_tiny()),
}


def _size(model) -> int:
    return sum(x.numel() * x.element_size() for x in model.state_dict().values())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("weights", "limit", "share"), [("bf16", 2e-2, 0.6), ("int8", 6e-2, 0.45)])
def test_it_is_near_and_smaller(name, weights, limit, share):
    model = MODELS[name]().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    small = compact(model, weights)
    tokens = torch.randint(0, 61, (2, 20))
    with torch.no_grad():
        wanted, found = model(tokens)[0], small(tokens)[0]
        assert 0 < (found - wanted).abs().max() < limit * wanted.abs().max()
        torch.testing.assert_close(small.loss(tokens, tokens)[0], model.loss(tokens, tokens)[0], rtol=1e-2, atol=0)
    assert _size(small) < share * _size(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in small.parameters())
    assert not small.training


def test_every_large_matrix_is_stored_so():
    small = compact(MODELS["7b"](), "int8")
    assert not [name for name, module in small.named_modules() if type(module) is torch.nn.Linear]
    assert isinstance(small.embed, CompactEmbedding)
    assert {m.weight.dtype for m in small.modules() if isinstance(m, CompactLinear)} == {torch.int8}


def test_bf16_weights_are_not_copied():
    model = MODELS["7b"]().bfloat16()
    small = compact(model, "bf16")
    assert small.head.weight.data_ptr() == model.head.weight.data_ptr()
    assert {p.dtype for p in small.parameters()} == {torch.float32}
    assert small(torch.zeros(1, 3, dtype=torch.long))[0].dtype == torch.float32


def test_recurrent_weights_are_stored_in_bf16():
    small = compact(MODELS["lstm"](), "int8")
    assert {p.dtype for name, p in small.named_parameters() if name.endswith("recurrent")} == {torch.bfloat16}


def test_rows_keep_their_own_scale():
    weight = torch.randn(6, 40) * torch.tensor([1e-6, 1e-3, 1.0, 1e3, 1e6, 0.0])[:, None]
    stored = CompactLinear(weight, None, "int8")
    worst = (stored.dense() - weight).abs().amax(1) / weight.abs().amax(1).clamp_min(1e-30)
    assert worst.max() <= 0.5 / 127 * 1.001
    assert int(stored.weight.abs().max()) == 127
    assert torch.equal(stored.dense()[5], torch.zeros(40))


def test_a_copy_of_it_is_the_same():
    small = compact(MODELS["xlstm"](), "int8")
    tokens = torch.randint(0, 61, (1, 9))
    assert torch.equal(copy.deepcopy(small)(tokens)[0], small(tokens)[0])


def test_there_are_two_kinds():
    with pytest.raises(ValueError, match="weights is 'int4'; it should be 'bf16' or 'int8'"):
        compact(MODELS["lstm"](), "int4")
