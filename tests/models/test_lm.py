"""The language model's own parts: the loss's options, dropout, soft cap, tying, patterns, errors."""

import pytest
import torch
from torch.nn import functional as F

from exgate.models import xlstm
from exgate.models.lm import layout

CONFIG = xlstm.Config(vocab_size=20, dim=32, blocks=2, pattern="ms")


def test_loss_options():
    model, tokens, targets = xlstm.build(CONFIG), torch.randint(20, (2, 7)), torch.randint(20, (2, 7))
    targets[0, :3] = -100
    logits, _ = model(tokens)
    for reduction in ("mean", "sum", "none"):
        loss, _ = model.loss(tokens, targets, reduction=reduction)
        wanted = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)
        torch.testing.assert_close(loss, wanted.view(loss.shape))
    assert not loss[0, :3].any()


def test_hidden_and_logits_are_forward():
    model, tokens = xlstm.build(CONFIG), torch.randint(20, (2, 7))
    x, _ = model.hidden(tokens)
    assert x.shape == (2, 7, 32)
    torch.testing.assert_close(model.logits(x[:, -1]), model(tokens)[0][:, -1])
    assert model.bfloat16()(tokens)[0].dtype == torch.float32


def test_soft_cap():
    model, tokens = xlstm.build(CONFIG), torch.randint(20, (2, 7))
    with torch.no_grad():
        model.head.weight *= 100
    plain, _ = model(tokens)
    assert plain.abs().max() > 5
    model.soft_cap = 3.0
    capped, _ = model(tokens)
    torch.testing.assert_close(capped, 3 * torch.tanh(plain / 3))
    torch.testing.assert_close(model.loss(tokens, tokens)[0], F.cross_entropy(capped.flatten(0, 1), tokens.flatten()))


def test_a_tied_head_is_the_embedding():
    config = xlstm.Config(vocab_size=20, dim=32, blocks=2, pattern="ms", tie_embeddings=True)
    model, untied = xlstm.build(config), xlstm.build(CONFIG)
    assert "head.weight" not in model.state_dict()
    assert model.num_parameters() == untied.num_parameters() - 20 * 32
    model.loss(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.long))[0].backward()
    assert model.embed.weight.grad[5].any()  # a token that was neither read nor wanted: through the head


def test_dropout_in_training_only():
    model = xlstm.build(xlstm.Config(vocab_size=20, dim=32, blocks=2, dropout=0.5))
    tokens = torch.randint(20, (1, 5))
    assert not torch.equal(model(tokens)[0], model(tokens)[0])
    model.eval()
    torch.testing.assert_close(model(tokens)[0], model(tokens)[0])
    assert "dropout=0.5" in repr(model)


def test_names_of_parameters():
    names = list(xlstm.build(CONFIG, device="meta").state_dict())
    for name in (
        "embed.weight",
        "stack.layers.0.layers.0.norm.weight",
        "stack.layers.0.layers.0.layer.up.weight",
        "stack.layers.1.layers.0.layer.recurrent",
        "stack.layers.1.layers.1.layer.down.weight",
        "norm.weight",
        "head.weight",
    ):
        assert name in names


def test_tokens_that_are_none_are_refused():
    model = xlstm.build(CONFIG)
    with pytest.raises(ValueError, match="tokens are a list; they should be a tensor"):
        model([[1, 2]])
    with pytest.raises(
        ValueError, match=rf"tokens go from 1 to 999, but the vocabulary has {CONFIG.vocab_size} entries"
    ):
        model(torch.tensor([[1, 999]]))


def test_generate_hands_over_to_the_sampler(monkeypatch):
    from exgate.generate import sampling

    model = xlstm.build(CONFIG)
    monkeypatch.setattr(sampling, "generate", lambda *args, **options: (args, options))
    assert model.generate("prompts", max_tokens=3) == ((model, "prompts"), {"max_tokens": 3})


@pytest.mark.parametrize("pattern, blocks, letters", [("m", 3, "mmm"), ("ms", 5, "msmsm"), ("smm", 3, "smm")])
def test_patterns_are_repeated_and_cut(pattern, blocks, letters):
    assert layout(pattern, blocks) == letters


@pytest.mark.parametrize(
    "pattern, blocks, words",
    [
        ("", 2, "pattern is ''"),
        ("mxa", 4, "pattern is 'mxa'; it should be made of the letters m, s"),
        ("mmm", 2, "pattern 'mmm' has 3 letters for blocks=2"),
        ("m", 0, "for blocks=0"),
    ],
)
def test_wrong_patterns_are_refused(pattern, blocks, words):
    with pytest.raises(ValueError, match=words):
        layout(pattern, blocks)


@pytest.mark.parametrize(
    "tokens", [torch.zeros(3, dtype=torch.long), torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 2)]
)
def test_wrong_tokens_are_refused(tokens):
    with pytest.raises(ValueError, match=r"LanguageModel: tokens have shape .* they should be \(B, T\) whole numbers"):
        xlstm.build(CONFIG)(tokens)


def test_targets_outside_the_vocabulary_are_refused():
    tokens = torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="the vocabulary has 20 entries"):
        xlstm.build(CONFIG).loss(tokens, tokens + 20)
