"""Small models whose next token depends on what came before."""

import pytest
import torch

from exgate.models import llama, lstm, mamba, rwkv4, xlstm


def lively(model):
    """Weights as initialised say nearly the same after any text: larger ones make the context matter."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="session", params=["xlstm", "lstm", "llama", "mamba", "rwkv4"])
def model(request):
    torch.manual_seed(2)  # before the fixture of every test: its texts have an end token and stop sequences
    if request.param == "xlstm":
        return lively(xlstm.build(xlstm.Config(vocab_size=272, dim=16, blocks=2, heads=2, pattern="ms", dropout=0.5)))
    if request.param == "llama":  # its state grows, and its rows' states differ in length
        return lively(llama.build(llama.Config(vocab_size=272, dim=16, blocks=2, heads=2, dropout=0.5)))
    if request.param == "mamba":
        return lively(mamba.build(mamba.Config(vocab_size=272, dim=16, blocks=2, state_size=4, dropout=0.5)))
    if request.param == "rwkv4":
        return lively(rwkv4.build(rwkv4.Config(vocab_size=272, dim=16, blocks=2, dropout=0.5)))
    return lively(lstm.build(lstm.Config(vocab_size=272, dim=16, layers=2, dropout=0.5)))
