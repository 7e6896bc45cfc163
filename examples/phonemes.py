"""What is being said in each frame of speech: an LSTM that reads forward, backward, or both ways (Graves 2005).

    python examples/phonemes.py                    frames synthesised by exgate.data.speech.synthetic: no real speech
    python examples/phonemes.py TIMIT              the corpus of LDC93S1: 61 phones, and folded into 39
    python examples/phonemes.py FSDD --digits      spoken digits: which of the ten it is, from each frame on

One way has half as many cells again as each direction of both, so that all have about equally many weights. Graves and
Schmidhuber (2005) report on TIMIT's test set 69.8 % of frames for both ways and 64.6 % for forward, with 61 phones.
"""

import argparse
import copy
import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from exgate.data import speech, timit
from exgate.data.speech import Utterance
from exgate.layers import Bidirectional, LSTMLayer
from exgate.layers.stack import ragged, reverse


class FrameClassifier(nn.Module):
    """Frames in, a logit per class and frame out."""

    def __init__(self, width: int, hidden: int, classes: int, way: str) -> None:
        super().__init__()
        self.way = way
        if way == "both":
            self.layer = Bidirectional(LSTMLayer(width, hidden=hidden), LSTMLayer(width, hidden=hidden))
            self.read = nn.Linear(2 * hidden, classes)
        else:
            self.layer = LSTMLayer(width, hidden=round(1.5 * hidden))
            self.read = nn.Linear(round(1.5 * hidden), classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x (B, T, F), rows padded at their ends -> logits (B, T, C)."""
        if self.way == "both":
            y, _ = self.layer(x, lengths=lengths)
        elif self.way == "forward":
            y, _ = ragged(self.layer, x, lengths)
        else:
            y = reverse(ragged(self.layer, reverse(x, lengths), lengths)[0], lengths)
        return self.read(y)


def batches(utterances: list[Utterance], size: int, seed: int | None = None):
    """(features, lengths, labels), -100 in the padding; neighbours in length go together."""
    order = sorted(range(len(utterances)), key=lambda n: len(utterances[n].labels))
    groups = [order[begin : begin + size] for begin in range(0, len(order), size)]
    if seed is not None:
        random.Random(seed).shuffle(groups)
    for group in groups:
        rows = [utterances[n] for n in group]
        labels = pad_sequence([row.labels for row in rows], True, padding_value=-100)
        yield pad_sequence([row.features for row in rows], True), torch.tensor([len(r.labels) for r in rows]), labels


@torch.inference_mode()
def accuracy(model: nn.Module, utterances: list[Utterance], folded: bool = False) -> float:
    """The share of frames that are right."""
    right, count = 0, 0
    for x, lengths, labels in batches(utterances, 64):
        says = model(x, lengths).argmax(-1)
        if folded:
            says, labels = timit.fold(says), timit.fold(labels)
        right += int(((says == labels) & (labels >= 0)).sum())
        count += int((labels >= 0).sum())
    return right / count


def train(model: nn.Module, learn: list[Utterance], held_out: list[Utterance], options: argparse.Namespace) -> None:
    """Adam; the weights of the epoch that does best on the held-out utterances are kept."""
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    best, kept = -1.0, model.state_dict()
    for epoch in range(options.epochs):
        for x, lengths, labels in batches(learn, options.batch, epoch):
            x = x + options.noise * torch.randn_like(x)  # against learning by heart, as in the paper
            loss = F.cross_entropy(model(x, lengths).flatten(0, 1), labels.flatten(), ignore_index=-100)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        if (now := accuracy(model, held_out)) > best:
            best, kept = now, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--digits", action="store_true", help="the folder is FSDD: DIGIT_SPEAKER_INDEX.wav")
    parser.add_argument("--features", choices=["mfcc", "log_mel"], default="mfcc")
    numbers = {"utterances": 1000, "hidden": 64, "epochs": 10, "batch": 32, "lr": 3e-3, "noise": 0.3, "seed": 0}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    options = parser.parse_args()

    if options.folder is None:
        learn, test = speech.synthetic(options.utterances), speech.synthetic(200, seed=1)
        names = [f"{symbol}{bit}" for symbol in "abcdef" for bit in "-+"]
        print("these frames are synthesised, not speech: see exgate.data.speech.synthetic")
    elif options.digits:
        sets = (speech.digits(options.folder, test=test, kind=options.features) for test in (False, True))
        (learn, test), names = map(list, sets), list("0123456789")
    else:
        sets = (timit.utterances(options.folder, split, kind=options.features) for split in ("train", "test"))
        (learn, test), names = map(list, sets), timit.PHONES
    random.Random(options.seed).shuffle(learn)
    every = torch.cat([utterance.features for utterance in learn])
    mean, deviation = every.mean(0), every.std(0)
    learn, test = ([u._replace(features=(u.features - mean) / deviation) for u in part] for part in (learn, test))
    some = max(1, len(learn) // 20)  # a twentieth, as in the paper
    held_out, learn = learn[:some], learn[some:]
    print(
        f"{len(learn)} utterances to learn from, {len(held_out)} held out, {len(test)} to test; {every.shape[1]} wide"
    )

    for way in ("forward", "backward", "both"):
        torch.manual_seed(options.seed)
        model = FrameClassifier(every.shape[1], options.hidden, len(names), way)
        train(model, learn, held_out, options)
        size = sum(parameter.numel() for parameter in model.parameters())
        words = f"{way:>8}: {accuracy(model, test):.1%} of frames are right, {size:,} parameters"
        if names is timit.PHONES:
            words += f"; folded into {len(timit.FOLDED)} phones: {accuracy(model, test, folded=True):.1%}"
        print(words)


if __name__ == "__main__":
    main()
