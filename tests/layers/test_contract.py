"""What every layer keeps: one forward for training, prefill and decoding; the past does not see the future; reset."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from exgate.layers import (
    FFN,
    AttentionLayer,
    CausalConv,
    ChannelMix,
    DenseSLSTMLayer,
    LayerNorm,
    LSTMLayer,
    MambaLayer,
    MLSTM7BLayer,
    MLSTMLayer,
    Residual,
    RMSNorm,
    RNNLayer,
    SLSTMLayer,
    Stack,
    TimeMix,
)
from exgate.ops.state import detach, flatten, join, map_state

D = 24
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "lstm": lambda **where: LSTMLayer(D, **where),
    "lstm heads peepholes": lambda **where: LSTMLayer(D, heads=3, peepholes=True, **where),
    "slstm": lambda **where: SLSTMLayer(D, heads=3, **where),
    "slstm plain exp": lambda **where: SLSTMLayer(D, heads=2, conv_kernel=0, forget_gate="exp", **where),
    "slstm dense": lambda **where: DenseSLSTMLayer(D, heads=3, **where),
    "mlstm": lambda **where: MLSTMLayer(D, heads=2, chunk_size=4, **where),
    "mlstm plain": lambda **where: MLSTMLayer(D, heads=2, conv_kernel=0, **where),
    "mlstm sigmoid bias": lambda **where: MLSTMLayer(D, heads=4, input_gate="sigmoid", bias=True, **where),
    "mlstm 7b": lambda **where: MLSTM7BLayer(D, heads=3, qk_dim=12, v_dim=18, chunk_size=5, **where),
    "mlstm 7b bias": lambda **where: MLSTM7BLayer(D, heads=3, bias=True, gate_soft_cap=0.0, **where),
    "attention": lambda **where: AttentionLayer(D, heads=3, **where),
    "attention window": lambda **where: AttentionLayer(D, heads=6, kv_heads=2, window=4, bias=True, **where),
    "rnn": lambda **where: RNNLayer(D, **where),
    "rnn heads": lambda **where: RNNLayer(D, heads=3, bias=False, **where),
    "time mix": lambda **where: TimeMix(D, block=1, blocks=3, **where),
    "channel mix": lambda **where: ChannelMix(D, 40, **where),
    "mamba": lambda **where: MambaLayer(D, **where),
    "mamba bias": lambda **where: MambaLayer(D, state_size=3, dt_rank=5, inner_dim=40, bias=True, **where),
    "conv": lambda **where: CausalConv(D, 4, **where),
    "ffn": lambda **where: FFN(D, 40, **where),
    "stack": lambda **where: Stack(
        [
            Residual(LayerNorm(D, offset=True, **where), SLSTMLayer(D, heads=2, **where)),
            Residual(RMSNorm(D, **where), MLSTMLayer(D, heads=2, **where)),
            Residual(RMSNorm(D, **where), FFN(D, 40, activation="silu", **where)),
        ]
    ),
}
every_layer = pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS.keys())


def shaken(layer: nn.Module, scale: float = 0.3) -> nn.Module:
    """The layer with no weight where it starts: many start at zero, where nothing can be seen of what they do."""
    with torch.no_grad():
        for weight in layer.parameters():
            weight += scale * torch.randn_like(weight)
    return layer


def close(ours, theirs, tolerance: float = 1e-10) -> None:
    """Tensors, or states of the same structure, agree."""
    if not isinstance(ours, Tensor):
        ours, theirs = flatten(ours), flatten(theirs)
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            close(tensor, theirs[name], tolerance)
        return
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@every_layer
def test_prefill_and_steps_are_the_whole(build):
    layer, x = shaken(build(dtype=torch.float64)), torch.randn(2, 11, D, dtype=torch.float64)
    whole, last = layer(x)
    y, state = layer(x[:, :5])
    parts = [y]
    for t in range(5, 11):
        given, copy = state, map_state(Tensor.clone, state)
        y, state = layer(x[:, t : t + 1], given)
        close(given, copy, 0.0)  # a state is never modified
        parts.append(y)
    close(torch.cat(parts, 1), whole)
    close(state, last)


@every_layer
def test_the_past_does_not_see_the_future(build):
    layer, x = shaken(build()), torch.randn(2, 9, D)
    other = torch.cat([x[:, :6], torch.randn(2, 3, D)], 1)
    y, z = layer(x)[0], layer(other)[0]
    close(y[:, :6], z[:, :6], 0.0 if isinstance(layer, FFN) else 1e-6)
    assert not torch.allclose(y[:, 6:], z[:, 6:])


@every_layer
def test_reset_is_separate_calls(build):
    layer, x = shaken(build(dtype=torch.float64)), torch.randn(2, 10, D, dtype=torch.float64)
    reset = torch.zeros(2, 10, dtype=torch.bool)
    reset[0, [3, 4]] = True
    reset[1, 6] = True
    _, before = layer(torch.randn(2, 3, D, dtype=torch.float64))
    y, state = layer(x, before, reset=reset)
    for row, cuts in enumerate(([0, 3, 4, 10], [0, 6, 10])):
        start = take(before, row)
        for begin, end in itertools.pairwise(cuts):
            alone, start = layer(x[row : row + 1, begin:end], start if begin == 0 else None)
            close(y[row : row + 1, begin:end], alone)
        close(take(state, row), lengthened(start, take(state, row)))


def take(state, row: int):
    return map_state(lambda tensor: tensor[row : row + 1], state)


def lengthened(state, like):
    """The state of one row, with zeros in front of what grows, where `like` has earlier documents."""
    return take(join([state, like]), 0)


@every_layer
def test_state_dict_round_trip(build):
    layer, other, x = shaken(build()), build(), torch.randn(2, 5, D)
    other.load_state_dict(layer.state_dict())
    close(other(x)[0], layer(x)[0], 0.0)


@every_layer
def test_bfloat16_is_near_float32(build):
    layer, x = shaken(build(), 0.1), torch.randn(2, 16, D)
    y, state = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = layer(x)
    halved, half_state = layer.bfloat16()(x.bfloat16())
    assert halved.dtype == torch.bfloat16
    assert all(tensor.dtype == torch.float32 for tensor in flatten(half_state).values())
    assert flatten(half_state).keys() == flatten(state).keys()
    scale = y.square().mean().sqrt()
    for other in (mixed, halved):
        assert (other.float() - y).square().mean().sqrt() < 0.03 * scale


@every_layer
def test_compiled_with_state_agrees(build):
    torch.compiler.reset()
    layer, x = shaken(build()), torch.randn(2, 6, D, requires_grad=True)
    reset = torch.zeros(2, 6, dtype=torch.bool)
    reset[1, 3] = True
    before = map_state(lambda tensor: tensor.detach().requires_grad_(), layer(torch.randn(2, 3, D))[1])
    inputs = [x, *flatten(before).values(), *layer.parameters()]
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for run in (layer, compiled):
        y, state = run(x, before, reset=reset)
        total = (y * torch.linspace(-1, 1, D)).sum() + sum(tensor.sum() for tensor in flatten(state).values())
        results.append((y, state, torch.autograd.grad(total, inputs, allow_unused=True)))
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs, 1e-4)
    # Gauges and counts have no gradient, by definition.
    fixed = sum(name.split(".")[-1] in ("m", "position") for name in flatten(before))
    assert sum(grad is not None for grad in results[0][2]) >= len(inputs) - fixed


@every_layer
def test_the_step_exports(build):
    layer, x = shaken(build()), torch.randn(2, 1, D)
    state = detach(layer(torch.randn(2, 3, D))[1])
    program = torch.export.export(layer, (x, state))
    y, after = layer(x, state)
    exported, exported_after = program.module()(x, state)
    close(exported, y, 1e-6)
    close(exported_after, after, 1e-6)


@every_layer
def test_thirty_steps_of_overfitting(build):
    layer, x = build(), torch.randn(2, 8, D)
    wanted = torch.randn_like(layer(x)[0])
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = (layer(x)[0] - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(weight.grad is not None for weight in layer.parameters())
    assert losses[-1] < 0.8 * losses[0]


@every_layer
def test_meta_then_empty_then_reset(build):
    layer = build(device="meta")
    assert all(weight.is_meta for weight in layer.parameters())
    layer.to_empty(device="cpu")
    with torch.no_grad():
        for weight in layer.parameters():
            weight.fill_(torch.nan)
    layer.reset_parameters()
    assert all(weight.isfinite().all() for weight in layer.parameters())
    fresh = build()
    for (name, weight), other in zip(layer.named_parameters(), fresh.parameters(), strict=True):
        if weight.numel() < 200:
            continue
        assert abs(weight.std(correction=0) - other.std(correction=0)) <= 0.2 * other.std(correction=0), name
