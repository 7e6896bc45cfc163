"""What can be done with any state."""

import pytest
import torch

from exgate.ops import AttentionState, ConvState, MLSTMState
from exgate.ops.state import detach, flatten, join, map_state, select, unflatten


def _state(batch=3, heads=2):
    return (
        (ConvState(torch.randn(batch, 3, 4)), MLSTMState(*(torch.randn(batch, heads, *s) for s in ((5, 6), (5,), ())))),
        ((), None),
    )


def test_map_state_keeps_the_nesting():
    state = _state()
    twice = map_state(lambda x: x * 2, state)
    assert type(twice[0][1]) is MLSTMState
    assert type(twice[0][0]) is ConvState
    assert twice[1] == ((), None)
    assert torch.equal(twice[0][1].n, state[0][1].n * 2)


def test_detach_cuts_the_history():
    state = map_state(lambda x: x.requires_grad_() * 1, _state())
    assert state[0][1].c.requires_grad
    assert not detach(state)[0][1].c.requires_grad


def test_select_takes_rows_of_the_batch():
    state = _state()
    index = torch.tensor([2, 0, 2])
    picked = select(state, index)
    assert torch.equal(picked[0][0].x, state[0][0].x[index])
    assert torch.equal(picked[0][1].m, state[0][1].m[index])


def test_flatten_and_back():
    state = _state()
    tensors = flatten(state)
    assert list(tensors) == ["0.0.x", "0.1.c", "0.1.n", "0.1.m"]
    again = unflatten(tensors, like=_state(batch=1))
    assert torch.equal(again[0][1].c, state[0][1].c)
    assert again[1] == ((), None)


def test_unflatten_names_what_does_not_fit():
    tensors = flatten(_state())
    with pytest.raises(ValueError, match=r"0.1.c has shape .3, 2, 5, 6., but this model's has .3, 7, 5, 6."):
        unflatten(tensors, like=_state(heads=7))
    del tensors["0.1.m"]
    with pytest.raises(ValueError, match=r"0.1.m only on one side"):
        unflatten(tensors, like=_state())


def _grown(batch, length, heads=2):
    return (
        AttentionState(torch.randn(batch, length, heads, 4), torch.randn(batch, length, heads, 5), torch.ones(batch)),
    )


def test_states_that_have_grown_differently_are_joined_at_their_ends():
    one, other = _grown(2, 3), _grown(1, 5)
    (joined,) = join([one, other])
    assert type(joined) is AttentionState
    assert joined.k.shape == (3, 5, 2, 4)
    assert torch.equal(joined.k[:2, 2:], one[0].k)
    assert not joined.v[:2, :2].any()
    assert torch.equal(joined.v[2:], other[0].v)


def test_unflatten_takes_any_length_of_what_grows():
    tensors = flatten(_grown(1, 7))
    assert unflatten(tensors, like=_grown(2, 1))[0].v.shape == (1, 7, 2, 5)
    with pytest.raises(ValueError, match=r"0.k has shape .1, 7, 2, 4., but this model's has .1, 7, 3, 4."):
        unflatten(tensors, like=_grown(1, 7, heads=3))
