"""A model as a program of PyTorch's own operations, which another process runs without exgate.

Not for models with attention: their state grows with every step.

python examples/export.py [--run RUN] [--out step.pt2]
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import exgate
from exgate.models import xlstm
from exgate.ops.state import flatten, unflatten

# All that the other process needs: the file of the program, and that of a state to begin with.
ALONE = """
import sys, torch
sys.modules["exgate"] = None  # an import of it would fail
step, state = torch.export.load(sys.argv[1]).module(), torch.load(sys.argv[2])
token = torch.tensor([[int(sys.argv[3])]])
for _ in range(int(sys.argv[4])):
    logits, state = step(token, state)
    token = logits[:, -1].argmax(-1, keepdim=True)
    print(int(token))
"""


class Step(nn.Module):
    """One step of a language model; the state is a dictionary of tensors, which needs no classes to be read."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            self.form = model(torch.zeros(1, 1, dtype=torch.long))[1]

    def forward(self, token: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """token (1, 1) and the state before it -> logits (1, 1, V) and the state after it."""
        logits, after = self.model(token, unflatten(state, like=self.form))
        return logits, flatten(after)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", help="a run folder or a model; without it, a small xLSTM that has learnt nothing")
    parser.add_argument("--out", help="where to write the program")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    config = xlstm.Config(vocab_size=257, dim=64, blocks=4, pattern="mmms")
    model = (exgate.load(arguments.run) if arguments.run else exgate.build(config)).eval()

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file, beginning = Path(folder) / "step.pt2", Path(folder) / "state.pt"
        text = torch.randint(0, model.embed.num_embeddings, (1, 33))
        _, state = model(text[:, :-1])  # a text is read at once; then come the steps
        step = Step(model)
        if any(x.shape != y.shape for x, y in zip(flatten(state).values(), flatten(step.form).values(), strict=True)):
            raise SystemExit("The state of this model grows with every step: a program would fit the first one alone.")
        program = torch.export.export(step, (text[:, -1:], flatten(state)))
        torch.export.save(program, file)
        torch.save(flatten(state), beginning)
        command = [sys.executable, "-c", ALONE, str(file), str(beginning), str(int(text[0, -1])), "20"]
        theirs = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        ours = model.generate(text, max_tokens=20, temperature=0).tokens[0].tolist()
        print(f"{len(list(program.graph.nodes))} operations, {file.stat().st_size / 1e6:.1f} MB")
        agree = sum(int(one) == other for one, other in zip(theirs, ours, strict=True))
        print(f"{agree} of {len(ours)} tokens are those that `generate` gives")
        if arguments.out:
            shutil.copy(file, arguments.out)


if __name__ == "__main__":
    main()
