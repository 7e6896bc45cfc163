"""Attention beyond the laws of contract.py: PyTorch's own, shared heads, what is kept, and what is refused."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from exgate.ops import AttentionState, attention


def inputs(time=6, heads=4, groups=4, size=8, value=8, batch=2):
    shapes = ((batch, time, heads, size), (batch, time, groups, size), (batch, time, groups, value))
    return tuple(torch.randn(shape, dtype=torch.float64) for shape in shapes)


@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_without_positions_it_is_torchs(backend):
    q, k, v = inputs()
    y, _ = attention(q, k, v, rope_theta=0.0, backend=backend)
    wanted = scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True)
    torch.testing.assert_close(y, wanted.transpose(1, 2))


def test_shared_keys_are_repeated_ones():
    q, k, v = inputs(groups=2)
    y, state = attention(q, k, v)
    torch.testing.assert_close(y, attention(q, k.repeat_interleave(2, 2), v.repeat_interleave(2, 2))[0])
    assert state.k.shape == (2, 6, 2, 8)


def test_a_window_sees_its_own_step_and_those_just_before():
    q, k, v = inputs(time=12)
    y, state = attention(q, k, v, rope_theta=0.0, window=3)
    alone, _ = attention(q[:, 7:10], k[:, 7:10], v[:, 7:10], rope_theta=0.0)
    torch.testing.assert_close(y[:, 9], alone[:, 2])
    assert state.k.shape[1] == 2
    torch.testing.assert_close(attention(q, k, v, window=1)[0], v)
    assert attention(q, k, v, window=1)[1].k.shape[1] == 0


def test_a_window_compiles_for_any_length():
    """Two graphs: within the window PyTorch's causal form, beyond it the mask."""
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(lambda *x: attention(*x, window=20)[0], backend=count, dynamic=True, fullgraph=True)
    for time in (9, 13, 17, 40, 64):
        x = inputs(time=time)
        torch.testing.assert_close(compiled(*x), attention(*x, window=20)[0])
    assert len(graphs) == 2


def test_a_state_with_a_window_is_bounded():
    state = None
    for _ in range(9):
        _, state = attention(*inputs(time=3), state, window=5)
    assert state.k.shape[1] == 4
    assert state.k.untyped_storage().nbytes() == state.k.numel() * 8  # and is no view of something longer
    assert state.position.tolist() == [27, 27]


def test_nothing_in_front_of_what_counts_matters():
    start, more = attention(*inputs(time=4))[1], inputs(time=5)
    wanted, _ = attention(*more, start)
    front = torch.full((2, 7, 4, 8), 1e6, dtype=torch.float64)
    longer = AttentionState(torch.cat([front, start.k], 1), torch.cat([front, start.v], 1), start.position)
    torch.testing.assert_close(attention(*more, longer)[0], wanted)


def test_a_document_that_is_over_is_not_handed_on():
    reset = torch.zeros(2, 6, dtype=torch.bool)
    reset[0, 4] = True
    _, state = attention(*inputs(), reset=reset)
    assert state.position.tolist() == [2, 6]
    assert not state.k[0, :4].any()
    assert not state.v[0, :4].any()
    assert state.k[0, 4:].all()
    assert state.v[1].all()


def test_errors():
    q, k, v = inputs()
    with pytest.raises(ValueError, match=r"attention: k has T=5 in shape .* but q has T=6"):
        attention(q, k[:, :5], v)
    with pytest.raises(ValueError, match=r"attention: v has G=3 in shape .* but q and k has G=4"):
        attention(q, k, v[:, :, :3])
    with pytest.raises(ValueError, match=r"q has H=4 heads and k has G=3; G should divide H"):
        attention(q, k[:, :, :3], v[:, :, :3])
    with pytest.raises(ValueError, match=r"K=7 is odd, but rotary positions turn pairs. Set rope_theta=0"):
        attention(q[..., :7], k[..., :7], v)
    with pytest.raises(ValueError, match=r"window is 0; it should be at least 1"):
        attention(q, k, v, window=0)
    _, state = attention(q, k, v)
    with pytest.raises(ValueError, match=r"state.v has S=5 in shape .* but v and state.k has S=6"):
        attention(q, k, v, state._replace(v=state.v[:, 1:]))
    with pytest.raises(ValueError, match=r"state.position has B=1 in shape"):
        attention(q, k, v, state._replace(position=state.position[:1]))
