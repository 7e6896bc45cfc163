"""RWKV-4 language models: published sizes and start, what is kept on disk, generation that goes on."""

import pytest
import torch

from exgate.models import io, rwkv4
from exgate.ops.state import flatten


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (rwkv4.rwkv4_125m(), 169_383_936),
        (rwkv4.rwkv4_125m(50277), 169_342_464),
        (rwkv4.rwkv4_350m(), 430_452_736),
        (rwkv4.rwkv4_tiny(), 495_104),
    ],
)
def test_published_sizes(config, parameters):
    assert rwkv4.build(config, device="meta").num_parameters() == parameters


def test_published_start():
    model = rwkv4.build(rwkv4.Config(vocab_size=40, dim=16, blocks=2))
    embed, head = model.embed.weight, model.head.weight
    torch.testing.assert_close(embed.T @ embed, 40e-8 * torch.eye(16))
    torch.testing.assert_close(head.T @ head, 0.25 * 40 / 16 * torch.eye(16))
    decays = [block.layers[0].layer.decay for block in model.stack.layers[1:]]
    place = torch.linspace(0, 1, 16)
    torch.testing.assert_close(torch.stack(decays), torch.stack([8 * place**0.7 - 5, 8 * place**2 - 5]))
    # Every branch ends in zeros: at first the model is norms of the embedding.
    tokens = torch.randint(40, (2, 5))
    torch.testing.assert_close(model(tokens)[0], model.head(model.norm(model.stack.layers[0](embed[tokens])[0])))


def test_state_is_five_numbers_per_channel():
    model, tokens = rwkv4.build(rwkv4.Config(vocab_size=40, dim=16, blocks=3)), torch.randint(40, (2, 9))
    state = flatten(model(tokens)[1])
    assert sum(tensor[0].numel() for tensor in state.values()) == 3 * 5 * 16


def test_generation_goes_on_from_a_saved_model(tmp_path):
    model = rwkv4.build(rwkv4.rwkv4_tiny())
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    io.save(model, tmp_path)
    again = io.load(tmp_path)
    assert again.config == model.config
    prompt = torch.randint(257, (1, 7))
    ours, theirs = (one.generate(prompt, max_tokens=6, temperature=0.0).tokens[0] for one in (model, again))
    torch.testing.assert_close(ours, theirs)


def test_a_model_has_blocks():
    with pytest.raises(ValueError, match="rwkv4: blocks is 0"):
        rwkv4.Config(vocab_size=40, dim=16, blocks=0)
