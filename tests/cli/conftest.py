"""A tiny model with its tokenizer on disk, and commands that take no GPU."""

import os
import signal

import pytest
import torch

from exgate.cli import train
from exgate.data.tokens import ByteTokenizer
from exgate.models import io, xlstm


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch):
    """What a command says is compared with a model on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C before the third step of whatever trains, until it is undone."""
    real = train.Windows.__next__

    def interrupting(self):
        if self.position["index"] == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self)

    with monkeypatch.context() as patched:
        patched.setattr(train.Windows, "__next__", interrupting)
        yield patched


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A model folder whose texts depend on their prompts, and are ASCII now and then."""
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = xlstm.build(xlstm.Config(vocab_size=257, dim=16, blocks=2, heads=2, pattern="ms"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25 * torch.randn_like(parameter))
        model.head.weight[97:123] *= 3.0
    io.save(model, path)
    ByteTokenizer().save(path)
    return path
