"""Weights from elsewhere: what is in a checkpoint, and how it goes on from a prompt of token ids.

    python examples/weights.py PATH [--prompt 1 2 3]

PATH is a folder or file of exgate, of the `xlstm` package or of `transformers`, or a name on the Hugging Face hub
(with `pip install 'exgate[hub]'`): NX-AI/xLSTM-7b, for one, which needs 28 GB of memory. Without it, a small folder in
the format of `transformers` is written to a temporary place and read again.
"""

import argparse
import tempfile

import torch

import exgate
from exgate.models import io, xlstm_7b


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", nargs="?")
    parser.add_argument("--prompt", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.path is None:
            torch.manual_seed(0)
            config = xlstm_7b.Config(vocab_size=300, dim=128, blocks=2, heads=2, qk_dim=64, v_dim=128, ffn_dim=384)
            exgate.save(exgate.build(config), folder, format="transformers")
        model = exgate.load(arguments.path or folder)
    print(f"{io.name(model.config)}, {model.num_parameters():,} parameters")
    print(model.config)
    result = model.generate([torch.tensor(arguments.prompt)], max_tokens=10, temperature=0)
    print("goes on with", result.tokens[0].tolist())


if __name__ == "__main__":
    main()
