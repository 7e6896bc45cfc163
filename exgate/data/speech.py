"""Speech as labelled frames: audio files, MFCC and log-mel features, spoken digits, and frames without any files."""

import math
import random
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

WINDOW, HOP = 0.025, 0.010  # seconds


class Utterance(NamedTuple):
    """features (T, F) of T frames, labels (T,) whole numbers, who speaks, and where it came from."""

    features: Tensor
    labels: Tensor
    speaker: str
    name: str


def read_audio(file: str | Path) -> tuple[Tensor, int]:
    """Samples (N,) between -1 and 1, and how many a second: 16-bit WAV (RIFF) or NIST SPHERE, first channel.

    Raises:
        ValueError: another format, or compressed samples.
    """
    data = Path(file).read_bytes()
    if data.startswith(b"NIST_1A"):
        return _sphere(data, file)
    if not data.startswith(b"RIFF"):
        raise ValueError(f"speech: '{file}' begins with {data[:8]!r}; it should be a WAV (RIFF) or NIST SPHERE file")
    with wave.open(str(file), "rb") as sound:
        if sound.getsampwidth() != 2:
            raise ValueError(f"speech: '{file}' has samples of {8 * sound.getsampwidth()} bits; convert it to 16 bits")
        return _samples(sound.readframes(sound.getnframes()), "<i2", sound.getnchannels()), sound.getframerate()


def _sphere(data: bytes, file: str | Path) -> tuple[Tensor, int]:
    """NIST SPHERE: a header of text lines `name -type value`, as long as its second line says, then the samples."""
    size = int(data.split(b"\n", 2)[1])
    lines = (line.split(maxsplit=2) for line in data[:size].decode("latin-1").splitlines()[2:])
    header = {line[0]: line[2].strip() for line in lines if len(line) == 3}
    coding, width = header.get("sample_coding", "pcm"), header.get("sample_n_bytes", "2")
    if coding != "pcm" or width != "2":
        raise ValueError(
            f"speech: '{file}' has samples of {width} bytes coded as {coding}; it should be pcm of 2 bytes: "
            "convert it with `sph2pipe` or `sox`"
        )
    order = ">i2" if header.get("sample_byte_format") == "10" else "<i2"
    return _samples(data[size:], order, int(header.get("channel_count", 1))), int(header["sample_rate"])


def _samples(data: bytes, kind: str, channels: int) -> Tensor:
    samples = np.frombuffer(data[: len(data) // (2 * channels) * 2 * channels], kind)[::channels]
    return torch.from_numpy(samples.astype(np.float32) / 32768)


def log_mel(samples: Tensor, rate: int, *, bands: int = 26, emphasis: float = 0.97) -> Tensor:
    """samples (N,) -> the logarithm of the energy in `bands` mel bands (T, bands), a frame each 10 ms.

    Pre-emphasis, Hamming windows of 25 ms, power spectrum, triangular filters equally spaced between 0 and rate / 2 on
    the scale mel(f) = 2595 log10(1 + f / 700). Frame t is centred at t * 10 ms + 12.5 ms; a recording that is shorter
    than one window is filled up with silence.
    """
    power = _power(samples, rate, emphasis)
    return (power @ _filters(bands, power.shape[1], rate).T).clamp(min=1e-10).log()


def mfcc(samples: Tensor, rate: int, *, coefficients: int = 12, bands: int = 26) -> Tensor:
    """samples (N,) -> the log energy and `coefficients` cepstra of each frame (T, 1 + coefficients).

    The cepstra are the orthonormal cosine transform (DCT-II) of `log_mel`, from the second coefficient on (Davis and
    Mermelstein 1980); the energy is that of the frame without pre-emphasis, as in HTK.
    """
    mel = log_mel(samples, rate, bands=bands)
    place = (torch.arange(bands) + 0.5) * math.pi / bands
    basis = torch.cos(torch.arange(1, coefficients + 1)[:, None] * place) * math.sqrt(2 / bands)
    energy = _windows(samples, rate).square().sum(1, keepdim=True).clamp(min=1e-10).log()
    return torch.cat([energy, mel @ basis.T], 1)


def deltas(features: Tensor, reach: int = 2) -> Tensor:
    r"""(T, F) -> slopes (T, F): $\sum_n n (x_{t+n} - x_{t-n}) / 2 \sum_n n^2$ for n = 1 ... reach, ends repeated."""
    steps = len(features)
    place = torch.arange(steps)
    total = torch.zeros_like(features)
    for n in range(1, reach + 1):
        total += n * (features[(place + n).clamp(max=steps - 1)] - features[(place - n).clamp(min=0)])
    return total / (2 * sum(n * n for n in range(1, reach + 1)))


def features(samples: Tensor, rate: int, kind: str = "mfcc") -> Tensor:
    """MFCC with energy and slopes (T, 26), as in Graves and Schmidhuber 2005; or "log_mel" with slopes (T, 52)."""
    if kind not in ("mfcc", "log_mel"):
        raise ValueError(f"speech: there are no features '{kind}'; choose 'mfcc' or 'log_mel'")
    x = mfcc(samples, rate) if kind == "mfcc" else log_mel(samples, rate)
    return torch.cat([x, deltas(x)], 1)


def centres(frames: int, rate: int) -> Tensor:
    """The sample in the middle of each frame (T,): where a label is read."""
    return torch.arange(frames) * round(HOP * rate) + round(WINDOW * rate) // 2


def digits(folder: str | Path, *, test: bool, kind: str = "mfcc") -> Iterator[Utterance]:
    """Spoken digits of the FSDD corpus: files DIGIT_SPEAKER_INDEX.wav, of which the indices below 5 are the test set.

    Every frame of a recording has the digit as its label.
    """
    files = sorted(Path(folder).rglob("[0-9]_*_*.wav"))
    if not files:
        raise FileNotFoundError(f"speech: no DIGIT_SPEAKER_INDEX.wav in '{folder}'")
    for file in files:
        digit, speaker, index = file.stem.split("_")
        if (int(index) < 5) == test:
            x = features(*read_audio(file), kind)
            yield Utterance(x, torch.full((len(x),), int(digit)), speaker, file.stem)


def synthetic(count: int, seed: int = 0, *, symbols: int = 6, width: int = 12, noise: float = 0.5) -> list[Utterance]:
    """Frames that need no files: what a frame is depends on its neighbours, as sounds do in speech.

    An utterance is 6 to 12 segments of 3 to 8 frames, each of one of `symbols` symbols s, neighbours different; a frame
    is the symbol's vector, the same for all seeds, plus normal noise. Its label is 2 s + b. For an even s, b says
    whether the segment before is of the upper half of the symbols; for an odd s, whether the one after is (at the ends:
    b = 0). So reading forward can know b in half of the cases and has to guess in the others, as reading backward.
    """
    means = torch.randn(symbols, width, generator=torch.Generator().manual_seed(1))
    chance, random_numbers = random.Random(seed), torch.Generator().manual_seed(seed)
    utterances = []
    for number in range(count):
        parts = [chance.randrange(symbols)]
        for _ in range(chance.randint(5, 11)):
            parts.append((parts[-1] + chance.randint(1, symbols - 1)) % symbols)
        sizes = torch.tensor([chance.randint(3, 8) for _ in parts])
        around = [0, *parts, 0]
        marks = [2 * s + (around[n if s % 2 == 0 else n + 2] >= symbols // 2) for n, s in enumerate(parts)]
        x = means[parts].repeat_interleave(sizes, 0)
        x = x + noise * torch.randn(x.shape, generator=random_numbers)
        utterances.append(Utterance(x, torch.tensor(marks).repeat_interleave(sizes), "nobody", f"synthetic {number}"))
    return utterances


def _windows(samples: Tensor, rate: int) -> Tensor:
    """(N,) -> frames (T, window)."""
    window, hop = round(WINDOW * rate), round(HOP * rate)
    short = max(0, window - len(samples))
    return torch.nn.functional.pad(samples, (0, short)).unfold(0, window, hop)


def _power(samples: Tensor, rate: int, emphasis: float) -> Tensor:
    """(N,) -> power spectra (T, bins)."""
    before = torch.nn.functional.pad(samples, (1, 0))[:-1]
    frames = _windows(samples - emphasis * before, rate)
    size = 1 << (frames.shape[1] - 1).bit_length()
    window = torch.hamming_window(frames.shape[1], periodic=False)
    return torch.fft.rfft(frames * window, n=size).abs().square()


def _filters(bands: int, bins: int, rate: int) -> Tensor:
    """Triangles (bands, bins), each from the middle of the one before to the middle of the one after."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2) / 2595) - 1)
    frequency = torch.linspace(0, rate / 2, bins)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequency - low) / (middle - low), (high - frequency) / (high - middle)
    return torch.minimum(rising, falling).clamp(min=0)
