"""What is measured, with whom, and for how long: the settings of a GPU, and tiny ones that run anywhere (`--dry`).

A contender is the package that it runs in (a process of its own), the function of `contenders.py` or `models.py` that
makes it, and its options. `reference` says which mathematics it claims to be, against which its gradients are held.
"""

from dataclasses import dataclass, field
from typing import Any

BUDGET = 450.0  # seconds for all sections; the rest of the eight minutes is starting processes, and writing


@dataclass(frozen=True)
class Entry:
    package: str
    maker: str
    options: dict[str, Any] = field(default_factory=dict)
    reference: str = ""


@dataclass(frozen=True)
class Section:
    """`share` is the part of the budget that its cases may take. Models do not fit side by side: they go `alone`."""

    name: str
    title: str
    entries: dict[str, Entry]
    cases: dict[str, dict[str, Any]]
    kinds: tuple[str, ...]
    share: float
    alone: bool = False


def _published(name: str, chunk: int) -> dict[str, Any]:
    return {"kernel": f"chunkwise--triton_{name}", "chunk": chunk}


MLSTM = {
    "exgate exp": Entry("exgate", "mlstm", {"input_gate": "exp"}, "exp"),
    "exgate sigmoid": Entry("exgate", "mlstm", {"input_gate": "sigmoid"}, "sigmoid"),
    "mlstm_kernels limit_chunk": Entry("mlstm_kernels", "mlstm_kernels", _published("limit_chunk", 64), "exp"),
    "mlstm_kernels xl_chunk": Entry("mlstm_kernels", "mlstm_kernels", _published("xl_chunk", 128), "exp"),
    "mlstm_kernels xl_chunk_siging": Entry(
        "mlstm_kernels", "mlstm_kernels", _published("xl_chunk_siging", 128), "sigmoid"
    ),
    "fla simple GLA": Entry("fla", "simple_gla", {}, "plain"),
    "SDPA FlashAttention": Entry("torch", "attention", {"backend": "FLASH_ATTENTION"}),
    "SDPA cuDNN": Entry("torch", "attention", {"backend": "CUDNN_ATTENTION"}),
}
RECURRENT = {
    f"{package} {cell}{f' {backend}' if backend else ''}": Entry(
        package, "recurrent" if package == "exgate" else "flashrnn", {"cell": cell, "backend": backend}, cell
    )
    for cell in ("slstm", "lstm")
    for package, backend in (
        ("exgate", ""),
        ("flashrnn", "cuda_fused"),
        ("flashrnn", "cuda"),
        ("flashrnn", "triton_fused"),
    )
}
RECURRENT |= {"nn.LSTM cuDNN": Entry("torch", "cudnn_lstm")}

TRANSFORMERS = {
    "transformers xLSTM": Entry("transformers", "transformers_xlstm"),
    "transformers xLSTM, published kernels": Entry("mlstm_kernels", "transformers_xlstm", {"kernels": True}),
    "transformers Llama": Entry("transformers", "transformers_llama"),
}
PRESETS = {
    "exgate xLSTM[1:0] 125M": Entry("exgate", "preset", {"file": "xlstm", "preset": "xlstm_1_0_125m"}),
    "exgate xLSTM[7:1] 125M": Entry("exgate", "preset", {"file": "xlstm", "preset": "xlstm_7_1_125m"}),
}
MODELS = {"exgate xLSTM": Entry("exgate", "xlstm_7b"), **TRANSFORMERS}  # all of one size

# The architecture of 7B at two sizes; Llama has the same width, depth and inner width.
SMALL = {"vocab_size": 50304, "dim": 768, "blocks": 12, "heads": 4, "qk_dim": 384, "v_dim": 768, "ffn_dim": 2048}
LARGE = {"vocab_size": 50304, "dim": 4096, "blocks": 32, "heads": 8, "qk_dim": 2048, "v_dim": 4096, "ffn_dim": 10944}
TINY = {"vocab_size": 64, "dim": 64, "blocks": 1, "heads": 1, "qk_dim": 64, "v_dim": 64, "ffn_dim": 64}


def sections(dry: bool) -> list[Section]:
    tokens, heads, key, value = (64, 1, 16, 16) if dry else (65536, 16, 128, 256)
    lengths = (32,) if dry else (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
    wide = {"H": heads, "K": key, "V": value}
    mlstm = {f"T={t}": {"B": tokens // t, "T": t, **wide} for t in lengths}
    hidden, batch, steps = (16, 2, 3) if dry else (768, 16, 1024)
    sizes = (16,) if dry else (16, 32, 64, 128, 256, 768)
    recurrent = {f"K={k}": {"B": batch, "T": steps, "H": hidden // k, "K": k} for k in sizes}
    small = {"model": TINY, "B": 1, "T": 8} if dry else {"model": SMALL, "B": 8, "T": 2048}
    models = {"125M": small, "7B": {"model": LARGE, "B": 1, "T": 2048, "dtype": "bfloat16"}}
    if dry:
        models.pop("7B")
    begin = {"dtype": "bfloat16", "B": 1, "prompt": 8 if dry else 256, "tokens": 2 if dry else 64}
    decoding = {name: {"model": case["model"], **begin} for name, case in models.items()}
    presets = {} if dry else {"125M of the 2024 paper": small}
    return [
        Section("mlstm", f"mLSTM, {tokens:,} tokens, {heads} heads, K {key}, V {value}, bf16", MLSTM, mlstm,
                ("forward", "both"), 0.38),
        Section("recurrent", f"sLSTM and LSTM, hidden {hidden}, T {steps}, batch {batch}, bf16", RECURRENT, recurrent,
                ("forward", "both"), 0.22),
        Section("paper", "Training the models of the 2024 paper: forward, loss, backward", PRESETS, presets,
                ("step",), 0.06, alone=True),
        Section("training", "Training: forward, loss, backward", MODELS, models, ("step",), 0.2, alone=True),
        Section("decoding", "Decoding, batch 1, weights in bf16", MODELS, decoding, ("tokens",), 0.14, alone=True),
    ]  # fmt: skip


def errors(dry: bool) -> dict[str, tuple[dict[str, Entry], dict[str, int]]]:
    """For each section whose contenders claim to be the same mathematics: they, and the size they are held to it at."""
    mlstm = {"B": 1, "T": 32, "H": 1, "K": 16, "V": 16} if dry else {"B": 2, "T": 256, "H": 2, "K": 128, "V": 256}
    cell = {"B": 1, "T": 3, "H": 1, "K": 16} if dry else {"B": 16, "T": 64, "H": 2, "K": 64}
    found = {"mlstm": (MLSTM, mlstm), "recurrent": (RECURRENT, cell)}
    return {name: ({k: e for k, e in entries.items() if e.reference}, case) for name, (entries, case) in found.items()}
