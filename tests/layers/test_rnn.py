"""The drop-ins beside torch.nn.LSTM: results, gradients, weights, layouts of input and state, errors."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import exgate.layers.rnn as rnn
from exgate.layers.rnn import LSTM, MLSTM, SLSTM

KINDS = [LSTM, SLSTM, MLSTM]


def pair(dtype=torch.float32, **options):
    """torch's and our LSTM with the same weights."""
    theirs = nn.LSTM(5, 8, dtype=dtype, **options)
    ours = LSTM(5, 8, dtype=dtype, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def close(ours, theirs, tolerance=1e-6):
    if isinstance(ours, tuple) and not isinstance(ours, PackedSequence):
        for one, other in zip(ours, theirs, strict=True):
            close(one, other, tolerance)
    elif isinstance(ours, PackedSequence):
        close(ours.data, theirs.data, tolerance)
        assert ours.batch_sizes.equal(theirs.batch_sizes)
        for one, other in zip(ours[2:], theirs[2:], strict=True):
            assert (one is None and other is None) or one.equal(other)
    else:
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def shaken(layer):
    with torch.no_grad():
        for weight in layer.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return layer


OPTIONS = [
    {},
    {"batch_first": True, "bias": False},
    {"num_layers": 3},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("given", [False, True], ids=["empty", "given"])
def test_lstm_agrees_with_torchs(options, given):
    theirs, ours = pair(**options)
    x = torch.randn(4, 7, 5, requires_grad=True)
    rows = 4 if options.get("batch_first") else 7
    depth = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    hx = tuple(torch.randn(depth, rows, 8, requires_grad=True) for _ in "hc") if given else None
    gradients = []
    for lstm in (theirs, ours):
        y, state = lstm(x, hx)
        weights = torch.linspace(-1, 1, y.numel()).view(y.shape)
        total = (y * weights).sum() + sum((tensor * tensor).sum() for tensor in state)
        parameters = [getattr(lstm, name) for name in theirs._flat_weights_names] if lstm is theirs else None
        gradients.append(((y, state), torch.autograd.grad(total, [x, *(hx or ())], retain_graph=True)))
        if parameters is None:
            own = dict(
                zip(dict(ours.named_parameters()), torch.autograd.grad(total, list(ours.parameters())), strict=True)
            )
        else:
            torchs = dict(zip(theirs._flat_weights_names, torch.autograd.grad(total, parameters), strict=True))
    close(gradients[1][0], gradients[0][0])
    close(gradients[1][1], gradients[0][1], 1e-5)
    # The gradients of the weights, under torch's names, are what loading them would make of ours.
    if not options.get("bias", True):
        torchs |= {}
    else:
        torchs = {name: grad for name, grad in torchs.items() if not name.startswith("bias_hh")}
        torchs |= {name.replace("ih", "hh"): torch.zeros_like(grad) for name, grad in torchs.items() if "bias" in name}
    rnn._from_torch(ours, torchs, "")
    assert torchs.keys() == own.keys()
    for name, grad in own.items():
        torch.testing.assert_close(grad, torchs[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("enforce_sorted", [False, True])
@pytest.mark.parametrize("given", [False, True], ids=["empty", "given"])
def test_packed_lstm_agrees_with_torchs(bidirectional, enforce_sorted, given):
    theirs, ours = pair(num_layers=2, bidirectional=bidirectional)
    lengths = [7, 5, 5, 2] if enforce_sorted else [5, 2, 7, 5]
    packed = pack_sequence([torch.randn(n, 5) for n in lengths], enforce_sorted=enforce_sorted)
    hx = tuple(torch.randn(4 if bidirectional else 2, 4, 8) for _ in "hc") if given else None
    close(ours(packed, hx), theirs(packed, hx))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_unbatched_lstm_agrees_with_torchs(bidirectional):
    theirs, ours = pair(num_layers=2, bidirectional=bidirectional, batch_first=True)
    x, depth = torch.randn(6, 5), 4 if bidirectional else 2
    close(ours(x), theirs(x))
    hx = tuple(torch.randn(depth, 8) for _ in "hc")
    close(ours(x, hx), theirs(x, hx))


def test_torchs_weights_load_inside_a_model_and_ours_round_trip():
    theirs = nn.ModuleDict({"rnn": nn.LSTM(5, 8, bidirectional=True), "out": nn.Linear(16, 2)})
    ours = nn.ModuleDict({"rnn": LSTM(5, 8, bidirectional=True), "out": nn.Linear(16, 2)})
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 2, 5)
    close(ours["rnn"](x), theirs["rnn"](x))
    again = LSTM(5, 8, bidirectional=True)
    again.load_state_dict(ours["rnn"].state_dict())
    close(again(x), theirs["rnn"](x))


def test_torchs_weights_need_the_right_shape():
    with pytest.raises(RuntimeError, match="size mismatch"):
        LSTM(5, 8).load_state_dict(nn.LSTM(5, 7).state_dict())
    with pytest.raises(RuntimeError, match="weight_hr_l0"):
        LSTM(5, 8).load_state_dict(nn.LSTM(5, 8, proj_size=3).state_dict())
    with pytest.raises(ValueError, match=r"which has one head, but heads=2. Set heads=1"):
        LSTM(5, 8, heads=2).load_state_dict(nn.LSTM(5, 8).state_dict())


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_layouts_agree(kind, bidirectional):
    torch.manual_seed(1)
    layer = shaken(kind(5, 8, 2, True, True, 0.0, bidirectional, dtype=torch.float64, heads=2))
    x = torch.randn(4, 7, 5, dtype=torch.float64)
    y, state = layer(x)
    assert y.shape == (4, 7, 16 if bidirectional else 8)
    assert all(tensor.shape[:2] == (4 if bidirectional else 2, 4) for tensor in state)
    layer.batch_first = False
    other, same = layer(x.transpose(0, 1))
    close((other.transpose(0, 1), same), (y, state), 1e-10)
    layer.batch_first = True
    alone, last = layer(x[1])
    close((alone, last), (y[1], tuple(tensor[:, 1] for tensor in state)), 1e-10)
    # With the state given: unbatched too.
    y, after = layer(x, state)
    close(layer(x[1], last), (y[1], tuple(tensor[:, 1] for tensor in after)), 1e-10)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_are_each_row_alone(kind, bidirectional):
    layer = shaken(kind(5, 8, 2, bidirectional=bidirectional, batch_first=True, dtype=torch.float64, heads=2))
    lengths = torch.tensor([4, 6, 1, 6])
    x = torch.randn(4, 6, 5, dtype=torch.float64)
    _, hx = layer(torch.randn(4, 3, 5, dtype=torch.float64))
    for start in (None, hx):
        packed, state = layer(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False), start)
        y, sizes = pad_packed_sequence(packed, batch_first=True)
        assert sizes.equal(lengths)
        for row, length in enumerate(lengths):
            alone = layer(x[row, :length], None if start is None else tuple(tensor[:, row] for tensor in start))
            close((y[row, :length], tuple(tensor[:, row] for tensor in state)), alone, 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_split_anywhere_and_reset(kind):
    layer = shaken(kind(5, 8, 2, batch_first=True, dtype=torch.float64, heads=2))
    x = torch.randn(3, 9, 5, dtype=torch.float64)
    y, state = layer(x)
    first, middle = layer(x[:, :4])
    second, last = layer(x[:, 4:], middle)
    close((torch.cat([first, second], 1), last), (y, state), 1e-10)
    reset = torch.zeros(3, 9, dtype=torch.bool)
    reset[:, 4] = True
    z, after = layer(x, reset=reset)
    close((z[:, 4:], after), layer(x[:, 4:]), 1e-10)
    layer.batch_first = False
    transposed, _ = layer(x.transpose(0, 1), reset=reset.T)
    close(transposed.transpose(0, 1), z, 1e-10)
    unbatched, _ = layer(x[0], reset=reset[0])
    close(unbatched, z[0], 1e-10)


@pytest.mark.parametrize("kind", [LSTM, SLSTM])
def test_the_state_holds_the_last_output(kind):
    y, state = kind(5, 8, 2, bidirectional=True)(torch.randn(6, 3, 5))
    close(state[0][2], y[-1, :, :8])
    close(state[0][3], y[0, :, 8:])


def test_mlstm_state_is_what_its_docstring_says():
    _, (x, c, n, m) = MLSTM(5, 24, 2, heads=4)(torch.randn(6, 3, 5))
    assert x.shape == (2, 3, 3, 64)
    assert c.shape == (2, 3, 4, 16, 16)
    assert n.shape == (2, 3, 4, 16)
    assert m.shape == (2, 3, 4)
    layer, inputs = MLSTM(5, 24, 2, heads=4, conv_kernel=0), torch.randn(6, 3, 5)
    y, state = layer(inputs)
    assert [tensor.dim() for tensor in state] == [5, 4, 3]
    first, between = layer(inputs[:2])
    close(torch.cat([first, layer(inputs[2:], between)[0]]), y, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_between_the_layers_only(kind):
    x = torch.randn(6, 3, 5)
    one, two = kind(5, 16, 1, dropout=0.5), kind(5, 16, 2, dropout=0.5)
    close(one(x)[0], one(x)[0], 0.0)
    assert not torch.equal(two(x)[0], two(x)[0])
    assert (two(x)[0] != 0).float().mean() > 0.9  # the output itself is not dropped
    two.eval()
    close(two(x)[0], two(x)[0], 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_weight_and_reset_starts_anew(kind):
    layer = shaken(kind(5, 8, 2, bidirectional=True))
    y, state = layer(torch.randn(6, 3, 5))
    (y.square().sum() + sum(tensor.square().sum() for tensor in state)).backward()
    assert all(weight.grad.any() for weight in layer.parameters())
    for weight in layer.parameters():
        nn.init.constant_(weight, torch.nan)
    layer.reset_parameters()
    assert all(weight.isfinite().all() for weight in layer.parameters())
    layer.flatten_parameters()


@pytest.mark.parametrize("kind", KINDS)
def test_compiles_with_state(kind):
    torch.compiler.reset()
    layer = shaken(kind(5, 8, 1, bidirectional=True))
    x = torch.randn(6, 3, 5)
    _, hx = layer(x)
    hx = tuple(tensor.detach() for tensor in hx)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    close(compiled(x, hx), layer(x, hx), 1e-5)


def test_meta_device_and_repr():
    layer = SLSTM(5, 8, 2, batch_first=True, dropout=0.1, device="meta")
    assert all(weight.is_meta for weight in layer.parameters())
    assert repr(layer).startswith("SLSTM(\n  5, 8, num_layers=2, batch_first=True, dropout=0.1\n")
    assert MLSTM(8, 8, device="meta").extra_repr() == "8, 8"


def test_errors_say_what_to_do():
    layer, x = LSTM(5, 8), torch.randn(6, 3, 5)
    with pytest.raises(ValueError, match=r"LSTM: input has shape \(6, 3, 4\); it should be \(T, B, input_size\), or "):
        layer(torch.randn(6, 3, 4))
    with pytest.raises(ValueError, match=r"input_size=5"):
        layer(torch.randn(5))
    with pytest.raises(ValueError, match=r"shape \(1, 2, 8\); it should begin with .* = \(1, 3\)"):
        layer(x, (torch.zeros(1, 2, 8), torch.zeros(1, 2, 8)))
    with pytest.raises(
        ValueError, match=r"hx has 2 tensors that end in \(8,\), \(7,\); it should be 2 .* hidden_size=8"
    ):
        layer(x, (torch.zeros(1, 3, 8), torch.zeros(1, 3, 7)))
    with pytest.raises(ValueError, match="LSTM: hx is a tensor; it should be a tuple of them"):
        layer(x, torch.zeros(1, 3, 8))
    with pytest.raises(ValueError, match="MLSTM: hx has 2 tensors"):
        MLSTM(5, 8)(x, (torch.zeros(1, 3, 8), torch.zeros(1, 3, 8)))
    with pytest.raises(ValueError, match="reset cannot go with a PackedSequence"):
        layer(pack_sequence([torch.randn(2, 5)]), reset=torch.zeros(2, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="num_layers=0 should all be at least 1"):
        LSTM(5, 8, 0)
    with pytest.raises(ValueError, match="dropout is 2"):
        LSTM(5, 8, dropout=2)
    with pytest.raises(ValueError, match="hidden=8 is not a multiple of heads=3"):
        SLSTM(5, 8, heads=3)
