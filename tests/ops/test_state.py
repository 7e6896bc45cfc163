"""What can be done with any state."""

import pytest
import torch

from exgate.ops import ConvState, MLSTMState
from exgate.ops.state import detach, flatten, map_state, select, unflatten


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
