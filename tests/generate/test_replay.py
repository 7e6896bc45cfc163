"""A recorded step is the step: logits, state, generation; and what cannot be recorded is left as it is."""

import pytest
import torch

from exgate.generate import replay
from exgate.generate.replay import Replay, Stepper
from exgate.generate.sampling import generate
from exgate.models import lstm, mamba, xlstm, xlstm_7b
from exgate.models.compact import compact
from exgate.ops import native
from exgate.ops.state import flatten
from tests.generate.conftest import lively

pytestmark = pytest.mark.skipif(native.absent() is not None, reason="no compiled kernels here")
SEVEN = {"vocab_size": 61, "dim": 32, "blocks": 2, "heads": 2, "qk_dim": 16, "v_dim": 32, "ffn_dim": 48}
CONFIGS = {
    "xlstm": xlstm.Config(vocab_size=61, dim=32, blocks=3, heads=2, pattern="msm"),
    "xlstm, tied, no FFN, no convolution in s": xlstm.Config(
        vocab_size=61, dim=32, blocks=2, heads=4, pattern="s", tie_embeddings=True, ffn_factor=0, conv_kernel=0
    ),
    "xlstm, bias, caps, other gates": xlstm.Config(
        vocab_size=61, dim=32, blocks=2, heads=2, pattern="ms", bias=True, soft_cap=20.0, input_gate="sigmoid",
        forget_gate="exp", ffn_activation="silu", conv_kernel=1,
    ),
    "7b": xlstm_7b.Config(**SEVEN),
    "7b with s": xlstm_7b.Config(**SEVEN, pattern="ms", bias=True, ffn_activation="relu2"),
    "mamba": mamba.Config(vocab_size=61, dim=24, blocks=2, state_size=5),
    "lstm": lstm.Config(vocab_size=61, dim=24, layers=2, peepholes=True),
    "lstm, plain": lstm.Config(vocab_size=61, dim=24, hidden=40, layers=2, residual=False, heads=2),
}  # fmt: skip


def _build(name: str):
    config = CONFIGS[name]
    modules = {lstm.Config: lstm, mamba.Config: mamba, xlstm.Config: xlstm, xlstm_7b.Config: xlstm_7b}
    return lively(modules[type(config)].build(config).eval())


@pytest.mark.parametrize("weights", [None, "bf16", "int8"])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_step(name, rows, weights):
    model = _build(name)
    model = model if weights is None else compact(model, weights)
    # Where x is rounded for int8, another last bit before it may become another step of 15 bits.
    limit = 1e-2 if weights == "int8" else 1e-4
    with torch.inference_mode():
        logits, state = model(torch.randint(0, 61, (rows, 5)))
        tokens = logits[:, -1].argmax(-1)
        step = Replay(model, tokens, state)
        logits, state = model(tokens[:, None], state)
        assert torch.equal(step.logits, logits[:, -1])
        for _ in range(12):
            tokens = torch.randint(0, 61, (rows,))
            logits, state = model(tokens[:, None], state)
            torch.testing.assert_close(step(tokens), logits[:, -1], rtol=limit, atol=limit)
        for part, wanted in flatten(state).items():
            torch.testing.assert_close(flatten(step.state)[part], wanted, rtol=limit, atol=limit)


def test_the_state_that_it_starts_from_is_not_changed():
    model = _build("xlstm")
    with torch.inference_mode():
        _, state = model(torch.randint(0, 61, (1, 5)))
        kept = {name: part.clone() for name, part in flatten(state).items()}
        step = Replay(model, torch.tensor([3]), state)
        step(torch.tensor([4]))
    assert all(torch.equal(part, kept[name]) for name, part in flatten(state).items())


@pytest.mark.parametrize("name", ["xlstm", "7b", "lstm", "mamba"])
def test_generation_is_the_same_with_and_without(name, monkeypatch):
    """Rows end at different times: the step is recorded anew for those that are left."""
    model = _build(name)
    prompts = [torch.arange(n) for n in (1, 4, 9)]
    recorded = []
    monkeypatch.setattr(replay, "PATIENCE", 1)
    first = Replay.__init__
    monkeypatch.setattr(Replay, "__init__", lambda self, *args: (recorded.append(len(args[1])), first(self, *args))[1])
    options = {"max_tokens": 40, "seed": 5, "end": 7, "repetition_penalty": 1.1}
    found = generate(model, prompts, **options)
    assert recorded[0] == 3
    assert recorded == sorted(set(recorded), reverse=True)
    monkeypatch.setattr(model, "replayable", False, raising=False)
    plain = generate(model, prompts, **options)
    assert [row.tolist() for row in found.tokens] == [row.tolist() for row in plain.tokens]
    for part, wanted in flatten(plain.state).items():
        torch.testing.assert_close(flatten(found.state)[part], wanted, rtol=1e-4, atol=1e-4)


def test_what_is_returned_outlives_the_next_generation():
    model = _build("7b")
    first = generate(model, [torch.arange(4)], max_tokens=20, seed=0)
    kept = {name: part.clone() for name, part in flatten(first.state).items()}
    generate(model, session=first.session, max_tokens=20)
    assert all(torch.equal(part, kept[name]) for name, part in flatten(first.state).items())


def _stepper_refuses(model, rows: int = 1) -> str:
    with torch.inference_mode():
        _, state = model(torch.zeros(rows, 2, dtype=torch.long))
        with pytest.raises(replay.Unrecordable) as told:
            Replay(model, torch.zeros(rows, dtype=torch.long), state)
        step = Stepper(model)
        for _ in range(replay.PATIENCE + 3):  # and it goes on as the model is written
            logits, state = step(torch.zeros(rows, dtype=torch.long), state)
        assert logits.isfinite().all()
    return str(told.value)


def test_an_operation_without_an_instruction_is_named():
    model = _build("7b")
    for module in model.modules():
        if hasattr(module, "activation"):
            module.activation = "selu"
    assert "aten.elu" in _stepper_refuses(model)


def test_other_types_are_left_alone():
    assert "bfloat16" in _stepper_refuses(_build("7b").bfloat16())


def test_a_value_that_decides_is_not_recorded():
    model = _build("lstm")
    model.stack.register_forward_hook(lambda module, args, out: (out[0] * (out[0][0, 0, 0].item() > 0), out[1]))
    assert "_local_scalar_dense" in _stepper_refuses(model)


def test_a_model_that_does_not_say_so_is_not_recorded(monkeypatch):
    model = _build("lstm")
    monkeypatch.setattr(model, "replayable", False, raising=False)
    step = Stepper(model)
    with torch.inference_mode():
        _, state = model(torch.zeros(1, 2, dtype=torch.long))
        for _ in range(replay.PATIENCE + 3):
            _, after = step(torch.zeros(1, dtype=torch.long), state)
            assert after is not state
            state = after
