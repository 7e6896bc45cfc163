"""The custom ops as PyTorch sees them: schemas, fake tensors, autograd, export, and the memory they take."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from exgate.ops import native
from exgate.ops.mlstm import eager
from exgate.ops.ssm import eager as scan
from tests.ops.contract import SPECS, Case, error, observe


def _arguments(name: str, saves: bool, chunk_size: int = 4, backend: str = "eager"):
    """The custom op behind a backend, and arguments for it."""
    case = Case.random(SPECS[name], torch.float32, time=9, reset=True)
    leaves = [x.clone().requires_grad_() for x in (*case.sequences, *case.weights)]
    state = [x.clone().requires_grad_() for x in case.state]
    if name.startswith("mlstm"):
        return torch.ops.exgate.mlstm_eager, (*leaves, *state, case.reset, chunk_size, True, True, 0.0, saves)
    if name.startswith("ssm"):
        u, delta, b, c, a, skip = leaves
        op = getattr(torch.ops.exgate, f"ssm_{backend}")
        return op, (u, delta, a, b, c, skip, *state, case.reset, chunk_size, saves)
    if name == "wkv":
        op = getattr(torch.ops.exgate, f"wkv_{backend}")
        return op, (*leaves, *state, case.reset, chunk_size, saves)
    if name == "conv" and backend == "cpu":
        return torch.ops.exgate.conv_cpu, (*leaves, *state, case.reset)
    if backend == "cpu":
        op, peephole = getattr(torch.ops.exgate, f"{name.split('-')[0]}_cpu"), leaves[2] if len(leaves) > 2 else None
        return op, (*leaves[:2], *state, peephole, case.reset, False, saves)
    if name.startswith("slstm"):
        return torch.ops.exgate.slstm_eager, (*leaves, *state, case.reset, False, saves)
    if name.startswith("lstm"):
        return torch.ops.exgate.lstm_eager, (*leaves[:2], *state, leaves[2], case.reset, saves)
    if name == "rnn":
        return torch.ops.exgate.rnn_eager, (*leaves, *state, case.reset, saves)
    window = torch.cat([state[0], leaves[0]], 1).detach().requires_grad_()
    return torch.ops.exgate.conv_eager, (window, leaves[1], case.reset)


@pytest.mark.parametrize("name", ["mlstm-exp", "slstm-sigmoid", "lstm-peepholes", "rnn", "wkv", "conv", "ssm"])
@pytest.mark.parametrize("chunk_size", [4, 9])
def test_opcheck(name, chunk_size):
    op, arguments = _arguments(name, saves=True, chunk_size=chunk_size)
    torch.library.opcheck(op, arguments)


@pytest.mark.parametrize("name", ["slstm-sigmoid", "lstm-peepholes", "wkv", "conv", "ssm"])
def test_opcheck_of_the_kernels(name):
    if native.absent():
        pytest.skip(native.absent())
    op, arguments = _arguments(name, saves=True, backend="cpu")
    torch.library.opcheck(op, arguments)


@pytest.mark.parametrize("name", ["mlstm-exp", "slstm-sigmoid", "lstm-peepholes", "rnn", "wkv", "ssm"])
def test_without_gradients_nothing_is_kept_for_backward(name):
    op, arguments = _arguments(name, saves=False)
    with torch.no_grad():
        *_, last = op(*arguments)
    assert last.numel() == 0


class Step(torch.nn.Module):
    def __init__(self, case: Case):
        super().__init__()
        self.case = case

    def forward(self, sequences, state):
        h, state = self.case.spec.call(sequences, self.case.weights, state, None, None, **self.case.spec.options)
        return h, tuple(state)


@pytest.mark.parametrize(
    "name", ["mlstm-exp", "mlstm-sigmoid", "slstm-sigmoid", "lstm-peepholes", "rnn", "wkv", "conv", "ssm"]
)
def test_a_step_exports_without_custom_ops(name):
    case = Case.random(SPECS[name], torch.float32, time=1)
    program = torch.export.export(Step(case), (case.sequences, case.state))
    assert not any("exgate" in str(node.target) for node in program.graph.nodes)
    h, state = program.module()(case.sequences, case.state)
    assert error([h, *observe(type(case.state)(*state))], case.outputs(None)) < 1e-6


def test_a_chunk_of_mlstm_exports_without_custom_ops():
    case = Case.random(SPECS["mlstm-exp"], torch.float32, time=64)
    with torch.no_grad():
        program = torch.export.export(Step(case), (case.sequences, case.state))
    assert not any("exgate" in str(node.target) for node in program.graph.nodes)
    h, state = program.module()(case.sequences, case.state)
    assert error([h, *observe(type(case.state)(*state))], case.outputs("eager")) < 1e-6


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


def test_mlstm_memory_is_linear_in_time():
    """Twice the steps, at most twice the largest tensor, forward and backward, and no (T, T) among them.

    The plain functions are called: inside a custom op no mode sees what is made.
    """
    largest = []
    for time in (1024, 2048):
        q, k, v = (torch.randn(1, time, 2, 16) for _ in range(3))
        i, f = (torch.randn(1, time, 2) for _ in range(2))
        c, n, m = torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 16), torch.zeros(1, 2)
        options = (64, True, True, 0.0)
        with Largest() as mode:
            h, *last = eager._chunkwise(q, k, v, i, f, c, n, m, None, *options, True)
            eager._chunkwise_backward(h, c, n, q, k, v, i, f, m, None, h, *last[3:], *options)
        largest.append(mode.numbers)
    assert largest[1] <= 2 * largest[0]
    assert largest[1] < 2048 * 2048 / 8


def test_memory_of_the_selective_scan_is_that_of_a_chunk():
    """Twice the steps: the same working memory, and no (B, T, D, N), neither kept nor made on the way."""
    largest = []
    for time in (1024, 2048):
        u, delta, b, c = (torch.rand(2, time, size) for size in (8, 8, 16, 16))
        a, h = -torch.rand(8, 16), torch.zeros(2, 8, 16)
        with Largest() as mode:
            y, last, kept = scan._scan(u, delta, a, b, c, None, h, None, 64, True)
            scan._scan_backward(y, last, u, delta, a, b, c, None, None, kept, 64)
        assert kept.numel() == time // 64 * h.numel()
        largest.append(mode.numbers)
    assert largest[1] <= 2 * u.numel()
    assert largest[1] <= 2 * largest[0]
