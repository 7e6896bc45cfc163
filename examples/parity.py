"""Is the number of ones odd? A sequence classifier over sequences of unequal length (about half a minute).

Parity needs a state that is changed by what it was: LSTM and sLSTM can learn it, mLSTM and attention cannot (Beck et
al. 2024, arXiv:2405.04517, section 4.1). Trained on up to 20 bits and tested on up to 100, it shows whether a rule was
learnt.

    python examples/parity.py [--cell SLSTM] [--steps 400]
"""

import argparse

import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import exgate


class Classifier(nn.Module):
    """Bits in, the logit of "odd" out."""

    def __init__(self, cell: str, hidden: int = 32):
        super().__init__()
        self.embed = nn.Embedding(2, hidden)
        self.cell = getattr(exgate, cell)(hidden, hidden, batch_first=True)
        self.read = nn.Linear(hidden, 1)

    def forward(self, sequences: list[torch.Tensor]) -> torch.Tensor:
        packed = pack_sequence([self.embed(bits) for bits in sequences], enforce_sorted=False)
        output, _ = self.cell(packed)  # packed in, packed out: no padding, no mask
        steps, lengths = nn.utils.rnn.pad_packed_sequence(output, batch_first=True)
        return self.read(steps[torch.arange(len(sequences)), lengths - 1])[:, 0]


def batch(size: int, shortest: int, longest: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Random bits of random lengths, and whether the number of ones is odd."""
    sequences = [torch.randint(0, 2, (int(torch.randint(shortest, longest + 1, ())),)) for _ in range(size)]
    return sequences, torch.stack([bits.sum() % 2 for bits in sequences]).float()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cell", choices=["LSTM", "SLSTM", "MLSTM"], default="SLSTM")
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = Classifier(arguments.cell)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(1, arguments.steps + 1):
        # Short sequences first: with long ones alone the gradient says nothing for a long time.
        sequences, odd = batch(64, 1, min(20, 2 + step // 10))
        loss = nn.functional.binary_cross_entropy_with_logits(model(sequences), odd)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step}: loss {loss:.3f}")
    with torch.no_grad():
        for shortest, longest in ((1, 20), (50, 100)):
            sequences, odd = batch(512, shortest, longest)
            right = ((model(sequences) > 0) == (odd > 0)).float().mean()
            print(f"{shortest} to {longest} bits: {right:.1%} right")


if __name__ == "__main__":
    main()
