"""The cells and their peers, each as two calls: forward, and forward with backward.

Pre-activations (sLSTM) and q, k, v and gates (mLSTM) are given: the cells alone. `torch.nn.LSTM` also does its dense
input product and a dense recurrence, four times the recurrent operations of four heads; our layers do the input
product too. Peers are imported where they are asked for.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.timing import Contender
from exgate import DenseSLSTMLayer, LSTMLayer, ops
from exgate.layers.mamba import MambaLayer
from exgate.ops.dispatch import use_backend

HEADS = 4


def slstm(hidden: int, batch: int, steps: int, names: tuple[str, ...]) -> dict[str, Contender]:
    """sLSTM cells (eager, cpu, xlstm), and layers of the same width (sLSTM layer, LSTM layer, nn.LSTM)."""
    size, time_first = hidden // HEADS, (steps, batch, hidden)
    x = torch.randn(batch, steps, 4, HEADS, size, requires_grad=True)
    r = (torch.randn(4, HEADS, size, size) / size**0.5).requires_grad_()
    weight = torch.randn(batch, steps, HEADS, size)
    sequence = torch.randn(batch, steps, hidden, requires_grad=True)

    def cell(backend: str) -> Contender:
        return Contender(lambda: ops.slstm(x, r, backend=backend)[0], [x, r], weight)

    def layer(module: torch.nn.Module) -> Contender:
        return Contender(lambda: module(sequence)[0], [sequence, *module.parameters()], weight.flatten(2))

    def published() -> Contender:
        from xlstm.blocks.slstm.cell import sLSTMCell, sLSTMCellConfig

        module = sLSTMCell(
            sLSTMCellConfig(hidden_size=hidden, num_heads=HEADS, num_states=4, backend="vanilla", function="slstm")
        )
        flat = x.detach().flatten(2).clone().requires_grad_()
        return Contender(lambda: module(flat)[0], [flat, *module.parameters()], weight.transpose(1, 2).contiguous())

    def torch_lstm() -> Contender:
        module, given = torch.nn.LSTM(hidden, hidden), torch.randn(time_first, requires_grad=True)
        return Contender(lambda: module(given)[0], [given, *module.parameters()], torch.randn(time_first))

    makers = {
        "eager": lambda: cell("eager"),
        "cpu": lambda: cell("cpu"),
        "sLSTM layer": lambda: layer(DenseSLSTMLayer(hidden, heads=HEADS)),
        "LSTM layer": lambda: layer(LSTMLayer(hidden)),
        "nn.LSTM": torch_lstm,
        "xlstm": published,
    }
    return {name: makers[name]() for name in names}


def mlstm(batch: int, steps: int, size: int, names: tuple[str, ...]) -> dict[str, Contender]:
    """mLSTM with K = V = `size`: ours (eager, cpu, cpu bf16), the published forms, and attention."""
    given = [torch.randn(batch, steps, HEADS, size, requires_grad=True) for _ in range(3)]
    gates = [torch.randn(batch, steps, HEADS) + shift for shift in (0, 3)]  # forget gates rather open, as in training
    weight = torch.randn(batch, steps, HEADS, size)

    def ours(backend: str, dtype: torch.dtype = torch.float32) -> Contender:
        leaves = [t.detach().to(dtype).requires_grad_() for t in (*given, *gates)]
        return Contender(lambda: ops.mlstm(*leaves, eps=1e-6, backend=backend)[0], leaves, weight.to(dtype))

    def heads_first(call: Callable[..., Tensor], gated: bool = True, tall: bool = False) -> Contender:
        leaves = [t.detach().transpose(1, 2).contiguous() for t in (*given, *(gates if gated else ()))]
        leaves = [t[..., None] if tall and t.dim() == 3 else t for t in leaves]
        leaves = [t.requires_grad_() for t in leaves]
        return Contender(lambda: call(*leaves), leaves, weight.transpose(1, 2).contiguous())

    def chunkwise() -> Contender:
        from mlstm_kernels.torch.chunkwise.native import mlstm_chunkwise__native_custbw

        return heads_first(lambda *xs: mlstm_chunkwise__native_custbw(*xs, chunk_size=64, eps=1e-6))

    def parallel() -> Contender:
        from xlstm.blocks.mlstm.backends import parallel_stabilized_simple

        return heads_first(parallel_stabilized_simple, tall=True)

    makers = {
        "eager": lambda: ours("eager"),
        "cpu": lambda: ours("cpu"),
        "cpu bf16": lambda: ours("cpu", torch.bfloat16),
        "native_custbw": chunkwise,
        "xlstm parallel": parallel,
        "SDPA": lambda: heads_first(lambda *xs: F.scaled_dot_product_attention(*xs, is_causal=True), gated=False),
    }
    return {name: makers[name]() for name in names}


def channels(op: str, batch: int, steps: int, dim: int) -> dict[str, Contender]:
    """Ops that treat each channel by itself, and Mamba's layer around two of them: cpu, eager, and a peer where one is.

    conv (4 taps): `torch.conv1d`. headwise (blocks of 4): `torch.einsum`. wkv and the Mamba layer: `transformers`
    without its CUDA kernels, where ssm (16 states) is not to be had by itself.
    """
    x, weight = torch.randn(batch, steps, dim, requires_grad=True), torch.randn(batch, steps, dim)
    makers = {"conv": _conv, "headwise": _headwise, "wkv": _wkv, "ssm": _ssm, "Mamba layer": _mamba}
    (call, leaves), peers = makers[op](x)

    def by(backend: str) -> Call:
        def run() -> Tensor:
            with use_backend(backend):
                return call()

        return run

    ours = {name: (by(name), leaves) for name in ("cpu", "eager")}
    return {name: Contender(*made, weight) for name, made in (ours | peers).items()}


Call = Callable[[], Tensor]
Made = tuple[Call, list[Tensor]]  # and what it is differentiated by


def _conv(x: Tensor) -> tuple[Made, dict[str, Made]]:
    taps = torch.randn(x.shape[2], 4, requires_grad=True)

    def padded() -> Tensor:
        return F.conv1d(F.pad(x.transpose(1, 2), (3, 0)), taps[:, None], groups=x.shape[2]).transpose(1, 2)

    return (lambda: ops.conv(x, taps)[0], [x, taps]), {"torch": (padded, [x, taps])}


def _headwise(x: Tensor) -> tuple[Made, dict[str, Made]]:
    weight = torch.randn(x.shape[2] // 4, 4, 4, requires_grad=True)

    def blocks() -> Tensor:
        return torch.einsum("btni,noi->btno", x.unflatten(-1, (-1, 4)), weight).flatten(2)

    return (lambda: ops.headwise(x, weight), [x, weight]), {"torch": (blocks, [x, weight])}


def _wkv(k: Tensor) -> tuple[Made, dict[str, Made]]:
    from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

    v, (log_w, u) = torch.randn_like(k).requires_grad_(), torch.randn(2, k.shape[2]).unbind()
    leaves = [k, v, log_w.requires_grad_(), u.requires_grad_()]
    published = (lambda: rwkv_linear_attention_cpu(log_w, u, k, v)[0], leaves)
    return (lambda: ops.wkv(k, v, log_w.exp(), u)[0], leaves), {"transformers": published}


def _ssm(u: Tensor) -> tuple[Made, dict[str, Made]]:
    delta, a = torch.rand_like(u), -torch.rand(u.shape[2], 16).add(0.1)
    b, c = torch.randn(2, *u.shape[:2], 16).unbind()
    leaves = [u, *(one.requires_grad_() for one in (delta, a, b, c))]
    return (lambda: ops.ssm(*leaves)[0], leaves), {}


def _mamba(x: Tensor) -> tuple[Made, dict[str, Made]]:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    ours, theirs = MambaLayer(x.shape[2]), MambaMixer(MambaConfig(hidden_size=x.shape[2]), 0)
    published = (lambda: theirs(x), [x, *theirs.parameters()])
    return (lambda: ours(x)[0], [x, *ours.parameters()]), {"transformers": published}
