"""Associative recall: many keys (MQAR), and one key at growing distance.

MQAR: Arora et al. 2024, arXiv:2312.04927, in the settings of the xLSTM paper (arXiv:2405.04517, section 4.1). `needle`
has one pair in random filler, learnt at distances up to the first bucket's and scored beyond.
"""

from typing import Any

from exgate.evaluate.trial import Budget, Problem, Suite

MODELS = ("llama", "mamba", "rwkv4", "lstm", "xlstm[0:1]", "xlstm[1:0]", "xlstm[1:1]")
BUDGETS = {
    "smoke": Budget(steps=3, batch=4, dim=16, rates=(1e-2,), rows=8),
    "small": Budget(steps=1000, batch=32, dim=64, rates=(1e-2, 3e-3, 1e-3), seeds=3, rows=256),
    # 64 epochs of 100,000 examples.
    "paper": Budget(
        steps=12_500, batch=512, dim=64, rates=(1e-4, 4.6e-4, 2.15e-3, 1e-2), rows=3000, floor=1e-4, beta2=0.999
    ),
}
# (vocabulary, T, K, widths; none: the budget's)
GRIDS = {
    "smoke": [(16, 16, 2, (None,))],
    "small": [(128, 64, 8, (None,)), (128, 64, 16, (None,)), (8192, 64, 4, (None,))],
    "paper": [(8192, 64, 4, (32, 64, 128, 256, 512)), (8192, 128, 8, (32, 64, 128, 256, 512)),
              (8192, 256, 16, (32, 64, 128, 256, 512))],
}  # fmt: skip
# In place of the budget's at that T, as published.
LONG: dict[int, dict[str, Any]] = {256: {"batch": 256, "steps": 25_000}}
DISTANCES = {
    "smoke": ((2, 8), (16, 16)),
    "small": ((2, 64), (128, 128), (256, 256), (512, 512)),
    "paper": ((2, 256), (512, 512), (1024, 1024), (2048, 2048), (4096, 4096)),
}


def suite(preset: str) -> Suite:
    """The problems and the budget of a preset."""
    problems = [
        Problem(
            name=f"mqar V{vocabulary} T{length} K{pairs}" + (f" D{dim}" if dim else ""), task="recall.mqar",
            options={"vocabulary": vocabulary, "pairs": pairs}, train=(length, length), buckets=((length, length),),
            dim=dim, **LONG.get(length, {}),
        )
        for vocabulary, length, pairs, widths in GRIDS[preset]
        for dim in widths
    ]  # fmt: skip
    distances = DISTANCES[preset]
    problems.append(Problem(name="needle", task="recall.needle", train=distances[0], buckets=distances))
    return Suite(problems=tuple(problems), budget=BUDGETS[preset], models=MODELS, measure="accuracy", axis="distance")
