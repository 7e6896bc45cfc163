"""RWKV-4's layers: the token shift, the published start, the formulas written out, errors."""

import math

import pytest
import torch
from torch.nn import functional as F

from exgate.layers.rwkv import ChannelMix, TimeMix
from exgate.ops import ConvState, wkv


def shaken(layer):
    with torch.no_grad():
        for weight in layer.parameters():
            weight += 0.3 * torch.randn_like(weight)
    return layer


def previous(x):
    return F.pad(x, (0, 0, 1, 0))[:, :-1]


def test_time_mix_is_its_formula():
    layer, x = shaken(TimeMix(6, dtype=torch.float64)), torch.randn(2, 5, 6, dtype=torch.float64)
    k, v, r = (
        linear(x * mix + previous(x) * (1 - mix))
        for linear, mix in ((layer.key, layer.mix_k), (layer.value, layer.mix_v), (layer.receptance, layer.mix_r))
    )
    mean, _ = wkv(k, v, layer.decay.exp(), layer.bonus, backend="reference")
    torch.testing.assert_close(layer(x)[0], layer.out(r.sigmoid() * mean))


def test_channel_mix_is_its_formula():
    layer, x = shaken(ChannelMix(6, 10, dtype=torch.float64)), torch.randn(2, 5, 6, dtype=torch.float64)
    k, r = (
        linear(x * mix + previous(x) * (1 - mix))
        for linear, mix in ((layer.key, layer.mix_k), (layer.receptance, layer.mix_r))
    )
    torch.testing.assert_close(layer(x)[0], r.sigmoid() * layer.value(k.clamp_min(0) ** 2))


def test_the_published_start():
    first, last = TimeMix(12, block=0, blocks=4), TimeMix(12, block=3, blocks=4)
    for layer in (first, last):
        assert not any(linear.weight.any() for linear in (layer.key, layer.receptance, layer.out))
        torch.testing.assert_close(layer.value.weight @ layer.value.weight.T, torch.eye(12))
        torch.testing.assert_close(layer.bonus[:3], math.log(0.3) + torch.tensor([0.0, 0.5, -0.5]))
        assert (layer.decay[0], layer.decay[-1]) == (-5.0, 3.0)
    place = torch.arange(12) / 12
    torch.testing.assert_close(first.mix_k, place)
    torch.testing.assert_close(first.mix_v, place)
    torch.testing.assert_close(first.mix_r, place**0.5)
    torch.testing.assert_close(last.mix_k, place**0.25)
    torch.testing.assert_close(last.mix_v, place**0.25 + 0.3)
    torch.testing.assert_close(last.mix_r, place**0.125)
    torch.testing.assert_close(first.decay, 8 * (torch.arange(12) / 11) ** 0.7 - 5)
    torch.testing.assert_close(last.decay, 8 * (torch.arange(12) / 11) ** 2 - 5)
    channels = ChannelMix(12, block=1, blocks=4)
    assert channels.hidden == 48
    assert not any(linear.weight.any() for linear in (channels.value, channels.receptance))
    torch.testing.assert_close(channels.key.weight.T @ channels.key.weight, 4 * torch.eye(12))
    torch.testing.assert_close(channels.mix_k, place**0.75)
    torch.testing.assert_close(channels.mix_r, place**0.75)


def test_a_state_keeps_its_own_memory():
    layer, x = ChannelMix(4), torch.randn(1, 3, 4)
    _, state = layer(x)
    kept = x[:, -1:].clone()
    x.zero_()
    torch.testing.assert_close(state.x, kept)


def test_states_are_checked():
    with pytest.raises(ValueError, match=r"ChannelMix: the state's x has D=5 in shape \(2, 1, 5\) = \(B, 1, D\)"):
        ChannelMix(4)(torch.randn(2, 3, 4), ConvState(torch.randn(2, 1, 5)))
    with pytest.raises(ValueError, match=r"TimeMix: state is ConvState"):
        TimeMix(4)(torch.randn(2, 3, 4), ConvState(torch.randn(2, 1, 4)))
