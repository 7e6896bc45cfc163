"""LSTM language models: the classical one beside torch's modules, the residual one, errors."""

import pytest
import torch
from torch import nn

from exgate.layers import LSTM
from exgate.models import lstm


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


def test_blocks_with_an_ffn():
    plain, model = (lstm.build(lstm.Config(vocab_size=9, dim=16, layers=2, ffn_dim=width)) for width in (0, 24))
    assert model.num_parameters() - plain.num_parameters() == 2 * (3 * 16 * 24 + 16)
    with pytest.raises(ValueError, match="ffn_dim=24 needs residual branches"):
        lstm.Config(vocab_size=9, dim=16, layers=2, ffn_dim=24, residual=False)
