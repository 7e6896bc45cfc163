"""LSTM language models: the classical one beside torch's modules, the residual one, errors."""

import dataclasses

import pytest
import torch
from torch import nn

from exgate.layers import LSTM
from exgate.models import io, lstm


def test_classical_stack_is_torchs_lstm():
    model = lstm.build(lstm.Config(vocab_size=20, dim=8, hidden=12, layers=2, residual=False, forget_bias=0.0))
    assert model.num_parameters() == 20 * 8 + 4 * 12 * (8 + 12 + 1) + 4 * 12 * (12 + 12 + 1) + 12 + 20 * 12
    tokens = torch.randint(20, (3, 7))
    shell = LSTM(8, 12, 2, batch_first=True)
    shell.load_state_dict(
        {
            name.replace("stack.layers", "layers").replace("layers.0.layer.", ""): weight
            for name, weight in model.state_dict().items()
            if name.startswith("stack")
        }
    )
    wanted = model.head(model.norm(shell(model.embed(tokens))[0]))
    torch.testing.assert_close(model(tokens)[0], wanted)


def test_residual_model():
    model = lstm.build(lstm.lstm_tiny(), device="meta")
    assert model.num_parameters() == 592_768
    assert isinstance(model.norm.weight, nn.Parameter)


def test_forget_bias():
    model = lstm.build(lstm.Config(vocab_size=20, dim=100, layers=1))
    means = model.stack.layers[0].layers[0].layer.input.bias.unflatten(0, (4, 100)).mean(1)
    torch.testing.assert_close(means, torch.tensor([0.0, 1.0, 0.0, 0.0]), rtol=0, atol=0.03)


def test_dropout_after_each_layer():
    model = lstm.build(lstm.Config(vocab_size=20, dim=32, layers=2, residual=False, dropout=0.5))
    x, _ = model.stack(torch.randn(2, 5, 32))
    assert 0.3 < (x == 0).float().mean() < 0.7


def test_errors():
    with pytest.raises(ValueError, match=r"residual branches need hidden=12 to be dim=8. Set residual=False"):
        lstm.Config(vocab_size=20, dim=8, hidden=12, layers=2)
    with pytest.raises(ValueError, match="layers is 0"):
        lstm.Config(vocab_size=20, dim=8, layers=0)
    with pytest.raises(ValueError, match=r"tie_embeddings needs .* but they have 12 and 8"):
        lstm.build(lstm.Config(vocab_size=20, dim=8, hidden=12, layers=2, residual=False, tie_embeddings=True))


def test_block_with_an_ffn():
    config = lstm.Config(vocab_size=20, dim=96, layers=2, ffn_dim=256)
    model = lstm.build(config)
    cell = 4 * 96 * (96 + 96 + 1)
    assert model.num_parameters() == 2 * 20 * 96 + 2 * (cell + 3 * 96 * 256 + 2 * 96) + 96
    tokens = torch.randint(20, (3, 7))
    _, state = model(tokens)
    assert [(state.h.shape, ffn) for state, ffn in state] == [((3, 1, 96), ())] * 2
    x = model.embed(tokens)
    for block in model.stack.layers:
        for branch in block.layers:
            x = x + branch.layer(branch.norm(x))[0]
    torch.testing.assert_close(model(tokens)[0], model.head(model.norm(x)))


def test_classical_rnn_is_torchs():
    model = lstm.build(lstm.Config(vocab_size=20, dim=8, hidden=12, layers=2, residual=False, cell="rnn"))
    theirs, tokens = nn.RNN(8, 12, 2, batch_first=True), torch.randint(20, (3, 7))
    with torch.no_grad():
        for number, block in enumerate(model.stack.layers):
            layer = block.layers[0].layer
            getattr(theirs, f"weight_ih_l{number}").copy_(layer.input.weight)
            getattr(theirs, f"weight_hh_l{number}").copy_(layer.recurrent[0])
            getattr(theirs, f"bias_ih_l{number}").copy_(layer.input.bias)
            getattr(theirs, f"bias_hh_l{number}").zero_()
    torch.testing.assert_close(model(tokens)[0], model.head(model.norm(theirs(model.embed(tokens))[0])))


def test_spread_forget_bias_is_kept(tmp_path):
    config = lstm.Config(vocab_size=20, dim=1000, layers=1, forget_bias=(3, 6.0))
    model = lstm.build(dataclasses.replace(config, dim=8))
    io.save(model, tmp_path)
    assert io.load(tmp_path).config.forget_bias == (3.0, 6.0)
    bias = lstm.build(config).stack.layers[0].layers[0].layer.input.bias.unflatten(0, (4, -1))[1]
    torch.testing.assert_close(bias, torch.linspace(3, 6, 1000), rtol=0, atol=0.04)
    for wrong in ([3.0], [3.0, "6"], [1, 2, 3]):
        with pytest.raises(ValueError, match=r"forget_bias is .* but should be one number or two"):
            io.config_from_dict({"model": "lstm", "vocab_size": 20, "dim": 8, "layers": 1, "forget_bias": wrong})


def test_errors_of_cells_and_blocks():
    with pytest.raises(ValueError, match=r"cell is 'gru'; it should be 'lstm' or 'rnn'"):
        lstm.Config(vocab_size=20, dim=8, layers=1, cell="gru")
    with pytest.raises(ValueError, match="cell='rnn' has no gates, but peepholes=True"):
        lstm.Config(vocab_size=20, dim=8, layers=1, cell="rnn", peepholes=True)
    with pytest.raises(ValueError, match="ffn_dim=24 needs residual branches"):
        lstm.Config(vocab_size=20, dim=8, layers=1, residual=False, ffn_dim=24)
