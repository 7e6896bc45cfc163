"""Additive attention: the formula, the mask, gradients."""

import pytest
import torch

from exgate.layers import AdditiveAttention


def sample(dtype=torch.float64):
    attention = AdditiveAttention(5, 6, 4, dtype=dtype)
    query, values = torch.randn(2, 3, 5, dtype=dtype), torch.randn(2, 7, 6, dtype=dtype)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    return attention, query, values, mask


def test_it_is_the_formula():
    attention, query, values, mask = sample()
    contexts, weights = attention(query, values, mask=mask)
    for b, length in ((0, 7), (1, 4)):
        for t in range(3):
            energy = torch.stack(
                [
                    attention.score @ torch.tanh(attention.query.weight @ query[b, t] + attention.key.weight @ h)
                    for h in values[b, :length]
                ]
            )
            alpha = energy.exp() / energy.exp().sum()
            torch.testing.assert_close(weights[b, t, :length], alpha)
            torch.testing.assert_close(contexts[b, t], alpha @ values[b, :length])


def test_weights_sum_to_one_and_do_not_see_the_padding():
    attention, query, values, mask = sample()
    contexts, weights = attention(query, values, mask=mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, dtype=torch.float64))
    assert (weights[1, :, 4:] == 0).all()
    changed = values.where(mask[..., None], 1e3 * torch.randn_like(values))
    again, same = attention(query, changed, mask=mask)
    assert torch.equal(contexts, again)
    assert torch.equal(weights, same)


def test_keys_can_be_computed_once():
    attention, query, values, mask = sample()
    keys = attention.keys(values)
    for t in range(3):
        one = attention(query[:, t : t + 1], values, keys, mask=mask)
        whole = attention(query, values, mask=mask)
        torch.testing.assert_close(one[0], whole[0][:, t : t + 1])
        torch.testing.assert_close(one[1], whole[1][:, t : t + 1])


def test_gradients_are_exact():
    attention, query, values, mask = sample()
    weights = [weight.detach().requires_grad_() for weight in attention.parameters()]
    names = [name for name, _ in attention.named_parameters()]

    def run(query, values, *weights):
        parameters = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(attention, parameters, (query, values), {"mask": mask})

    assert torch.autograd.gradcheck(run, (query.requires_grad_(), values.requires_grad_(), *weights))


def test_low_precision_keeps_its_type_and_sums_to_one_in_float32():
    attention, query, values, mask = sample(torch.bfloat16)
    contexts, weights = attention(query, values, mask=mask)
    assert (contexts.dtype, weights.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3))


def test_errors_say_what_is_wrong():
    attention, query, values, mask = sample()
    with pytest.raises(ValueError, match=r"query has shape \(1, 3, 5\) and values \(2, 7, 6\).*same B"):
        attention(query[:1], values)
    with pytest.raises(ValueError, match=r"mask has shape \(2, 6\).*it should be \(B, S\) = \(2, 7\), bool"):
        attention(query, values, mask=mask[:, :6])
    with pytest.raises(ValueError, match=r"type torch.int64; it should be"):
        attention(query, values, mask=mask.long())
    with pytest.raises(ValueError, match=r"query has shape \(2, 3, 5\) and values \(2, 7, 5\)"):
        attention(query, values[..., :5])
    with pytest.raises(ValueError, match=r"keys have shape \(2, 6, 4\).*\(B, S, dim\) = \(2, 7, 4\)"):
        attention(query, values, attention.keys(values)[:, :6])
