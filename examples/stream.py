"""A sequence that arrives in pieces: the state is all that is kept, in memory or in a file.

python examples/stream.py
"""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from exgate.layers import LSTMLayer, MLSTMLayer, Residual, RMSNorm, SLSTMLayer, Stack
from exgate.ops.state import flatten, map_state, unflatten


def main() -> None:
    torch.manual_seed(0)
    # Any mixture: each layer is (x, state) -> (y, state), and so is the stack.
    model = Stack([Residual(RMSNorm(64), layer) for layer in (MLSTMLayer(64), SLSTMLayer(64), LSTMLayer(64))]).eval()
    x = torch.randn(1, 1000, 64)

    with torch.inference_mode():
        whole, _ = model(x)

        state, pieces = None, []
        for piece in x.split([1, 2, 300, 97, 600], dim=1):
            y, state = model(piece, state)
            pieces.append(y)
        print(f"in pieces or whole, the largest difference is {(torch.cat(pieces, 1) - whole).abs().max():.1e}")

        numbers = sum(tensor.numel() for tensor in flatten(state).values())
        print(f"the state has {numbers:,} numbers, after 1000 steps as after one")

        # Stop in the middle, keep the state in a file, go on later.
        y, state = model(x[:, :500])
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "state.safetensors")
            save_file(flatten(map_state(torch.Tensor.contiguous, state)), file)
            again = unflatten(load_file(file), like=state)
        y, _ = model(x[:, 500:], again)
        print(f"from the file, the largest difference is {(y - whole[:, 500:]).abs().max():.1e}")


if __name__ == "__main__":
    main()
