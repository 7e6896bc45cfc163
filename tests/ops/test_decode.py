"""A step in one launch or two is the op and the norm one after the other."""

import pytest
import torch

from exgate.layers import MLSTM7BLayer, MLSTMLayer, SLSTMLayer
from exgate.ops import MLSTMState, SLSTMState, decode, gpu, headnorm, mlstm, slstm, use_backend
from exgate.ops.state import flatten, map_state
from tests.ops.contract import error, ground

pytestmark = [pytest.mark.skipif(not gpu.INSTALLED, reason="Triton is not installed"), pytest.mark.usefixtures("place")]
B, H = 2, 2


def _states(after, wanted) -> float:
    return error(list(flatten(after).values()), list(flatten(wanted).values()))


def _mlstm(key: int, value: int, kind=torch.float32):
    parts = [torch.randn(B, 1, H, size).to(kind) for size in (key, key, value)]
    parts += [torch.randn(B, 1, H).to(kind) for _ in range(2)]
    state = MLSTMState(torch.randn(B, H, key, value), torch.randn(B, H, key), torch.randn(B, H))
    gate, u = (torch.randn(B, 1, H * value).to(kind) for _ in range(2))
    norm = {"weight": torch.randn(H, value), "gate": gate, "skip": (u, torch.randn(H * value)), "eps": 1e-3}
    return parts, state, norm | {"rms": False, "offset": False, "activation": "silu"}


def _without_skip(norm):
    return {name: option for name, option in norm.items() if name not in ("skip", "activation")}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("empty", "reset", "options", "norm"),
    [
        (False, True, {"eps": 1e-6}, {"offset": True}),
        (True, False, {"input_gate": "sigmoid"}, {"rms": True}),
        (False, False, {"input_gate": "sigmoid"}, {}),
    ],
)
def test_mlstm(whole, empty, reset, options, norm, monkeypatch):
    if not whole:
        monkeypatch.setattr(decode, "mlstm_tiles", lambda *sizes: (8, 16))
    parts, state, whole_norm = _mlstm(20, 37)
    norm = (_without_skip(whole_norm) if reset else whole_norm) | norm
    state = None if empty else state
    marks = torch.tensor([[True], [False]]) if reset else None
    if reset:
        state.c[0].fill_(torch.nan)  # what a reset empties may be anything
    with ground("triton"):
        with gpu.recording(gpu.SM90) as launches:
            decode.mlstm(*parts, state, norm, cap=2.0, reset=marks, **options)
        y, after = decode.mlstm(*parts, state, norm, cap=2.0, reset=marks, **options)
    assert len(launches) == (1 if whole else 2)
    *qkv, i, f = parts
    h, wanted = mlstm(*qkv, 2 * (i / 2).tanh(), 2 * (f / 2).tanh(), state, reset=marks, backend="reference", **options)
    assert error([y], [headnorm(h, **norm)]) < 1e-5
    assert _states(after, wanted) < 1e-5


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("empty", "reset", "gate"), [(False, True, "sigmoid"), (True, False, "sigmoid"), (False, False, "exp")]
)
def test_slstm(whole, empty, reset, gate, monkeypatch):
    if not whole:
        monkeypatch.setattr(decode, "slstm_tiles", lambda *sizes: (8, 16, 4))
    x, r = torch.randn(B, 1, 4, H, 19), 0.3 * torch.randn(4, H, 19, 19)
    norm = {"weight": torch.randn(H, 19), "eps": 1e-5, "rms": False, "offset": True}
    h, c, n, m = (torch.randn(B, H, 19) for _ in range(4))
    state = None if empty else SLSTMState(h, c, n.abs() + 0.5, m)
    marks = torch.tensor([[True], [False]]) if reset else None
    if reset:
        map_state(lambda part: part[0].fill_(torch.nan), state)
    with ground("triton"):
        with gpu.recording(gpu.SM90) as launches:
            decode.slstm(x, r, state, norm, forget_gate=gate, reset=marks)
        y, after = decode.slstm(x, r, state, norm, forget_gate=gate, reset=marks)
    assert len(launches) == (1 if whole else 2)
    h, wanted = slstm(x, r, state, forget_gate=gate, reset=marks, backend="reference")
    assert error([y], [headnorm(h, **norm)]) < 1e-5
    assert _states(after, wanted) < 1e-5


def test_an_empty_state_whose_m_is_minus_infinity():
    parts, _, norm = _mlstm(20, 37)
    state = MLSTMState(torch.zeros(B, H, 20, 37), torch.zeros(B, H, 20), torch.full((B, H), -torch.inf))
    for gate in ("exp", "sigmoid"):
        with ground("triton"):
            y, after = decode.mlstm(*parts, state, norm, input_gate=gate)
        h, wanted = mlstm(*parts, state, input_gate=gate, backend="reference")
        assert error([y], [headnorm(h, **norm)]) < 1e-5
        assert _states(after, wanted) < 1e-5


def test_short_types():
    parts, state, norm = _mlstm(16, 16, torch.bfloat16)
    with ground("triton"):
        y, after = decode.mlstm(*parts, state, norm)
    exact = [x.double() for x in parts]
    h, wanted = mlstm(*exact, map_state(torch.Tensor.double, state), backend="reference")
    assert y.dtype == torch.bfloat16
    norm |= {"gate": norm["gate"].double(), "skip": tuple(x.double() for x in norm["skip"])}
    assert error([y], [headnorm(h, **norm)]) < 1e-2
    assert _states(after, wanted) < 1e-5


LAYERS = {
    "MLSTMLayer": lambda: MLSTMLayer(8, heads=2, multiple=8),
    "MLSTM7BLayer": lambda: MLSTM7BLayer(8, heads=2),
    "SLSTMLayer": lambda: SLSTMLayer(8, heads=2, recurrent_init="uniform"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_layers_take_it_where_they_may(name):
    layer, calls = LAYERS[name](), []
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    layer.norm.register_forward_hook(lambda *args: calls.append(1))
    x = torch.randn(2, 7, 8)
    with torch.no_grad():
        wanted, last = layer(x)
    with ground("triton"):
        with torch.no_grad():
            outputs, state = [], layer(x[:, :4])[1]
            before = {part: tensor.clone() for part, tensor in flatten(state).items()}
            first, calls[:] = state, []
            for t in range(4, 7):
                y, state = layer(x[:, t : t + 1], state)
                outputs.append(y)
            assert not calls  # the norm is part of the step
            assert all(torch.equal(tensor, before[part]) for part, tensor in flatten(first).items())
            with use_backend("eager"):
                layer(x[:, :1])
        layer(x[:, :1])
        assert len(calls) == 2  # another backend was asked for, and gradients
    assert error([torch.cat(outputs, 1)], [wanted[:, 4:]]) < 1e-5
    assert _states(state, last) < 1e-5


def test_tiles():
    """A program for each head if there are enough, else two for each processor."""
    assert decode.mlstm_tiles(8, 256, 512, 132) == (256, 16)
    assert decode.mlstm_tiles(4, 384, 384, 132) == (256, 16)
    assert decode.mlstm_tiles(256, 256, 512, 132) == (8, 512)
    assert decode.mlstm_tiles(4, 64, 64, 132) == (64, 64)
    assert decode.slstm_tiles(4, 192, 132) == (4, 256, 4)
    assert decode.slstm_tiles(4, 32, 132) == (32, 32, 4)
    for sequences in (1, 8, 1000):
        for size in (16, 100, 512, 2000):
            rows, columns = decode.mlstm_tiles(sequences, size, size, 132)
            assert rows * columns <= 4096
            rows, columns, warps = decode.slstm_tiles(sequences, size, 132)
            assert rows * columns // (32 * warps) <= 8


def test_opcheck_and_compile():
    parts, state, norm = _mlstm(4, 6)

    def call(state):
        return decode.mlstm(*parts, state, norm)

    with ground("triton"), torch.no_grad():
        cell = (*(x[:, 0] for x in parts), *state, None, 0.0, True, True, 0.0)
        after = norm["weight"], norm["gate"][:, 0], norm["skip"][0][:, 0], norm["skip"][1]
        torch.library.opcheck(torch.ops.exgate.mlstm_decode, (*cell, *after, 1e-5, False, False, True))
        y, after = torch.compile(call, fullgraph=True, backend="aot_eager")(state)
        wanted = call(state)
    assert error([y, *after], [wanted[0], *wanted[1]]) == 0.0


def test_bad_states_and_resets_are_left_to_the_op():
    """A state of another batch, marks that are no booleans: decode steps aside, and the op says what is wrong."""
    parts, state, norm = _mlstm(20, 37)
    other = MLSTMState(*(x[:1] for x in state))
    with ground("triton"):
        assert decode.mlstm(*parts, state, norm) is not None
        assert decode.mlstm(*parts, other, norm) is None
        assert decode.mlstm(*parts, state, norm, reset=torch.ones(B, 1, dtype=torch.int64)) is None
