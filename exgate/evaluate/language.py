"""Language modelling at equal parameters and tokens: bytes of a text, what each step from LSTM to xLSTM brings.

Table 1 and 2 of Beck et al. 2024, arXiv:2405.04517, in small: peers, and the steps from LSTM to xLSTM (residual
branches, up-projection, exponential gating, matrix memory), mLSTM without its convolution and with gates that do not
see the input. Trained on windows of 256 bytes, scored on these and on windows of 4096: the picture is the loss along
them. --data names the text; without it it is CPython's manual.
"""

from exgate.evaluate.trial import Budget, Problem, Suite

MODELS = (
    "llama", "mamba", "rwkv4", "lstm", "lstm-residual", "lstm-block", "xlstm[0:1]-no-conv", "xlstm[0:1]",
    "xlstm[1:1]", "xlstm[1:0]", "xlstm[1:0]-no-conv", "xlstm[1:0]-bias-gates",
)  # fmt: skip
BUDGETS = {
    "smoke": Budget(steps=3, batch=4, dim=16, rates=(1e-2,), rows=8, beta2=0.95),
    # 2,048 bytes a step, 600,000 in all.
    "small": Budget(
        steps=300, batch=8, dim=144, blocks=4, rates=(1e-2, 3e-3, 1e-3), seeds=3, rows=512, tokens=2**17, beta2=0.95
    ),
    "paper": Budget(
        steps=30_000, batch=256, dim=768, blocks=24, rates=(3e-3, 1e-3), rows=2048, tokens=2**22, beta2=0.95
    ),
}
WINDOWS = {"smoke": (16, 64), "small": (256, 4096), "paper": (2048, 16_384)}


def suite(preset: str, text: str) -> Suite:
    """The problem and the budget of a preset. `text` is the fingerprint of what is read."""
    window, longest = WINDOWS[preset]
    problem = Problem(
        name="bytes", task="excerpts.bytes_", options={"text": text}, train=(window, window),
        buckets=((window, window), (longest, longest)),
    )  # fmt: skip
    return Suite(
        problems=(problem,), budget=BUDGETS[preset], models=MODELS, measure="bits", headline=0, picture="steps",
        axis="position", loss="nats", costs=True,
    )  # fmt: skip
