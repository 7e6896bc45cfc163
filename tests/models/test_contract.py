"""What every model keeps: shapes, the first loss, prefill and decoding, reset, checkpointing, meta device, groups."""

import dataclasses
import math

import pytest
import torch

from exgate.models import io, llama, lstm, mamba, parameter_groups, rwkv4, xlstm, xlstm_7b
from exgate.ops import use_backend
from exgate.ops.state import detach, flatten, join, map_state, select

SMALL = {"vocab_size": 50, "dim": 32}
CONFIGS = {
    "llama": llama.Config(blocks=3, heads=4, **SMALL),
    "llama options": llama.Config(
        blocks=2, heads=4, kv_heads=2, window=5, ffn_dim=48, tie_embeddings=True, soft_cap=10.0, **SMALL
    ),
    "lstm": lstm.Config(layers=3, **SMALL),
    "lstm classical": lstm.Config(layers=2, hidden=48, residual=False, peepholes=True, heads=2, **SMALL),
    "lstm block": lstm.Config(layers=2, ffn_dim=64, forget_bias=(3.0, 6.0), **SMALL),
    "rnn": lstm.Config(layers=2, cell="rnn", heads=2, **SMALL),
    "rwkv4": rwkv4.Config(blocks=3, **SMALL),
    "rwkv4 options": rwkv4.Config(blocks=1, ffn_dim=48, tie_embeddings=True, soft_cap=10.0, **SMALL),
    "xlstm": xlstm.Config(blocks=4, pattern="ms", **SMALL),
    "xlstm options": xlstm.Config(
        blocks=3, pattern="smm", tie_embeddings=True, soft_cap=10.0, bias=True, input_gate="sigmoid", forget_gate="exp",
        conv_kernel=2, ffn_factor=0, **SMALL,
    ),
    "mamba": mamba.Config(blocks=3, **SMALL),
    "mamba tied": mamba.Config(
        blocks=2, state_size=5, conv_kernel=3, inner_dim=40, dt_rank=3, tie_embeddings=True, bias=True, **SMALL
    ),
    "xlstm and attention": xlstm.Config(blocks=2, pattern="ma", **SMALL),
    "xlstm_7b and attention": xlstm_7b.Config(
        blocks=3, heads=2, qk_dim=32, v_dim=24, ffn_dim=64, pattern="mas", bias=True, **SMALL
    ),
    "xlstm_7b": xlstm_7b.Config(blocks=3, heads=4, qk_dim=16, v_dim=32, ffn_dim=64, **SMALL),
    "xlstm_7b hybrid": xlstm_7b.Config(
        blocks=3, heads=2, qk_dim=32, v_dim=24, ffn_dim=64, pattern="msm", tie_embeddings=True, bias=True, **SMALL
    ),
}  # fmt: skip
every_model = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def build(config, **where):
    return io.build(config, **where)


def shaken(config):
    """A float64 model with no weight where it starts."""
    model = build(config, dtype=torch.float64)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model


def close(ours, theirs, tolerance=1e-9):
    ours, theirs = flatten(ours), flatten(theirs)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=tolerance, atol=tolerance)


@every_model
def test_shapes_and_first_loss(config):
    model, tokens = build(config), torch.randint(50, (4, 65))
    logits, state = model(tokens[:, :-1])
    assert logits.shape == (4, 64, 50)
    assert logits.dtype == torch.float32
    assert len(state) == len(model.stack.layers)
    assert all(len(tensor) == 4 for tensor in flatten(state).values())
    loss, after = model.loss(tokens[:, :-1], tokens[:, 1:])
    close(after, state, 1e-6)
    # A tied head on a fresh model favours the token that was just read: further from ln V than a head of its own.
    assert loss.item() == pytest.approx(math.log(50), abs=0.8 if config.tie_embeddings else 0.4)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))
    assert model.config is config


@every_model
def test_prefill_and_decoding_are_the_whole(config):
    model, tokens = shaken(config), torch.randint(50, (2, 9))
    whole, last = model(tokens)
    logits, state = model(tokens[:, :5])
    parts = [logits]
    for t in range(5, 9):
        logits, state = model(tokens[:, t : t + 1], state)
        parts.append(logits)
    close(torch.cat(parts, 1), whole)
    close(state, last)


@every_model
def test_reset_keeps_documents_apart(config):
    model, tokens = shaken(config), torch.randint(50, (1, 9))
    reset = torch.zeros(1, 9, dtype=torch.bool)
    reset[0, 4] = True
    logits, state = model(tokens, reset=reset)
    first, _ = model(tokens[:, :4])
    second, last = model(tokens[:, 4:])
    close(logits, torch.cat([first, second], 1))
    close(state, select(join([last, state]), torch.tensor([0])))  # what grows has zeros in front: the first document
    targets = torch.randint(50, (1, 9))
    packed, _ = model.loss(tokens, targets, reset=reset, reduction="none")
    close(packed[:, 4:], model.loss(tokens[:, 4:], targets[:, 4:], reduction="none")[0])


@every_model
def test_checkpointing_changes_no_gradient(config):
    model, tokens = shaken(config), torch.randint(50, (2, 9))
    reset = torch.rand(2, 9) < 0.2
    state = map_state(lambda tensor: tensor.detach().requires_grad_(), model(tokens)[1])
    results = []
    for model.stack.checkpoint in (False, True):
        loss, after = model.loss(tokens, tokens.flip(1), state, reset=reset)
        total = loss + sum(tensor.square().sum() for tensor in flatten(after).values())
        inputs = [*model.parameters(), *flatten(state).values()]
        results.append(torch.autograd.grad(total, inputs, allow_unused=True))
    close(results[0], results[1], 1e-12)


@every_model
def test_meta_device_then_memory_then_initial_weights(config):
    model = build(config, device="meta")
    assert all(weight.is_meta for weight in model.parameters())
    model.to_empty(device="cpu")
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(torch.nan)
    torch.manual_seed(5)
    model.reset_parameters()
    torch.manual_seed(5)
    close(model.state_dict().values(), build(config).state_dict().values(), 0.0)


@every_model
def test_ten_steps_of_training_fall_under_autocast(config):
    model, tokens = build(config), torch.randint(50, (2, 17))
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=3e-3)
    losses, state = [], None
    for _ in range(10):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, state = model.loss(tokens[:, :-1], tokens[:, 1:], state)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state = detach(state)
        losses.append(loss.item())
    assert loss.dtype == torch.float32
    assert all(weight.grad is not None for weight in model.parameters())
    assert losses[-1] < losses[0] - 0.3


def test_compiles_with_state():
    # One model of both kinds of block: tracing costs seconds, and every layer is compiled in its own contract.
    torch.compiler.reset()
    config = dataclasses.replace(CONFIGS["xlstm_7b hybrid"], blocks=2, pattern="ms")
    model, tokens = build(config), torch.randint(50, (2, 6))
    state = detach(model(tokens)[1])

    def run(tokens, state):
        return model.loss(tokens, tokens.flip(1), state)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    results = []
    for call in (run, compiled):
        loss, after = call(tokens, state)
        results.append((loss, after, torch.autograd.grad(loss, list(model.parameters()))))
    for ours, theirs in zip(*results, strict=True):
        close(ours, theirs, 1e-4)


@every_model
def test_a_whole_text_exports_for_any_number_of_rows_and_steps(config, tmp_path):
    """With gradients, and as a file. Ops that are not PyTorch's own stay one node each."""
    model, tokens, any_size = build(config), torch.randint(50, (2, 9)), torch.export.Dim.AUTO
    program = torch.export.export(model, (tokens,), dynamic_shapes={"tokens": {0: any_size, 1: any_size}})
    torch.export.save(program, tmp_path / "text.pt2")
    exported = torch.export.load(tmp_path / "text.pt2").module()
    for shape in ((2, 9), (3, 70)):
        tokens = torch.randint(50, shape)
        close(exported(tokens), model(tokens), 1e-4)
    exported(tokens)[0].square().sum().backward()
    model(tokens)[0].square().sum().backward()
    found = dict(exported.named_parameters())
    for name, parameter in model.named_parameters():
        assert (found[name].grad - parameter.grad).abs().max() <= 1e-3 * parameter.grad.abs().max(), name


@every_model
def test_a_step_exports_without_custom_ops(config, tmp_path):
    model = build(config).eval()
    with torch.no_grad():
        _, state = model(torch.randint(50, (2, 9)))
        token = torch.randint(50, (2, 1))
        program = torch.export.export(model, (token, state))
        assert not any("exgate" in str(node.target) for node in program.graph.nodes)
        torch.export.save(program, tmp_path / "step.pt2")
        close(torch.export.load(tmp_path / "step.pt2").module()(token, state), model(token, state), 1e-4)


@every_model
def test_weight_decay_groups(config):
    model = build(config, device="meta")
    decayed, others = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, others = ({names[parameter] for parameter in group["params"]} for group in (decayed, others))
    assert decayed | others == set(names.values())
    assert not decayed & others
    # The rule as the paper's code states it, on names: "weight", but not of a norm, and not of the embedding.
    wanted = {n for n in names.values() if n.endswith(".weight") and "norm" not in n and n != "embed.weight"}
    if isinstance(config, rwkv4.Config):  # there everything decays but biases, embedding and norms
        wanted = {n for n in names.values() if not n.endswith(".bias") and "norm" not in n and n != "embed.weight"}
    assert decayed == wanted
    assert ("head.weight" in decayed) == (not config.tie_embeddings)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own forward mode uses it
@every_model
def test_transforms_and_second_derivatives(config):
    """A directional derivative of the loss by torch.func, and the same of its gradient, by both ways there are."""
    model, tokens = io.build(config), torch.randint(0, config.vocab_size, (2, 7))
    embedding, direction = model.embed.weight.detach(), torch.randn_like(model.embed.weight)

    def loss(weight):
        return torch.func.functional_call(_Loss(model), {"model.embed.weight": weight}, (tokens,))

    leaf = embedding.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(loss(leaf), leaf)
    along = torch.func.jvp(loss, (embedding,), (direction,))[1]
    torch.testing.assert_close(along, (wanted * direction).sum(), rtol=1e-3, atol=1e-4)
    with use_backend("reference"):
        (first,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
        (second,) = torch.autograd.grad((first * direction).sum(), leaf)
    again = torch.func.jvp(torch.func.grad(loss), (embedding,), (direction,))[1]
    torch.testing.assert_close(second, again, rtol=1e-3, atol=1e-4)


class _Loss(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model.loss(tokens[:, :-1], tokens[:, 1:])[0]
