"""A language model in one page: text in, a loop of one's own, text out. `exgate train` does this and much more.

python examples/language_model.py [FILE ...] [--steps 300]
"""

import argparse
import math

import torch

import exgate
from exgate.data.packing import Corpus, Windows
from exgate.data.text import documents
from exgate.data.tokens import ByteTokenizer
from exgate.generate.text import complete
from exgate.models import xlstm
from exgate.models.lm import parameter_groups
from exgate.ops.state import detach


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="*", default=["python-manual"])
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    torch.manual_seed(0)

    tokenizer = ByteTokenizer()
    corpus = Corpus.encode(documents(arguments.files), tokenizer)
    # Sixteen places in the text are read in parallel, 64 bytes at a time; the state goes on from window to window.
    batches = Windows(corpus, batch=16, window=64, stateful=True)

    model = exgate.build(xlstm.Config(vocab_size=tokenizer.vocab_size, dim=128, blocks=2, pattern="ms"))
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.1), lr=5e-3, betas=(0.9, 0.95))
    print(f"{model.num_parameters():,} parameters, {corpus.targets:,} tokens")

    state = None
    for step, batch in zip(range(1, arguments.steps + 1), batches, strict=False):
        loss, state = model.loss(batch.tokens, batch.targets, state, reset=batch.reset)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        state = detach(state)  # truncated backpropagation through time
        if step % 20 == 0:
            print(f"step {step}: {loss.item() / math.log(2):.2f} bits per byte")

    print("The " + complete(model, tokenizer, "The ", max_tokens=200, temperature=0.7, seed=0))


if __name__ == "__main__":
    main()
