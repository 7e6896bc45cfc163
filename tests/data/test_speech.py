"""Speech: audio files, what the features are of known sounds, and the frames that need no files."""

import math
import wave

import numpy as np
import pytest
import torch

from exgate.data import speech


def write_wav(file, samples, rate=8000, channels=1, width=2):
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(samples)


def sphere(samples: np.ndarray, order: str, coding: str = "pcm") -> bytes:
    lines = ["NIST_1A", "   1024", "channel_count -i 1", "sample_rate -i 16000", "sample_n_bytes -i 2"]
    lines += [f"sample_byte_format -s2 {order}", f"sample_coding -s{len(coding)} {coding}", "end_head", ""]
    return "\n".join(lines).encode().ljust(1024) + samples.astype("<i2" if order == "01" else ">i2").tobytes()


def tone(frequency: float, rate: int, seconds: float = 0.5) -> torch.Tensor:
    return torch.sin(2 * math.pi * frequency * torch.arange(int(seconds * rate)) / rate)


def test_wav_and_sphere_are_read(tmp_path):
    samples = np.array([0, 16384, -32768, 1], np.int16)
    wanted = torch.tensor([0.0, 0.5, -1.0, 1 / 32768])
    file = tmp_path / "a.wav"
    write_wav(file, samples.astype("<i2").tobytes())
    read, rate = speech.read_audio(file)
    assert rate == 8000
    assert torch.equal(read, wanted)
    write_wav(file, np.stack([samples, samples[::-1]], 1).astype("<i2").tobytes(), channels=2)
    assert torch.equal(speech.read_audio(file)[0], wanted), "the first channel"
    for order in ("01", "10"):
        file.write_bytes(sphere(samples, order))
        read, rate = speech.read_audio(file)
        assert rate == 16000
        assert torch.equal(read, wanted)


def test_what_cannot_be_read_is_named(tmp_path):
    file = tmp_path / "a.wav"
    file.write_bytes(b"OggS....")
    with pytest.raises(ValueError, match=r"begins with b'OggS\.\.\.\.'; it should be a WAV"):
        speech.read_audio(file)
    write_wav(file, bytes(30), width=3)
    with pytest.raises(ValueError, match="samples of 24 bits; convert it to 16"):
        speech.read_audio(file)
    file.write_bytes(sphere(np.zeros(3), "01", "pcm,embedded-shorten-v2.00"))
    with pytest.raises(ValueError, match=r"coded as pcm,embedded-shorten-v2\.00; it should be pcm"):
        speech.read_audio(file)
    with pytest.raises(ValueError, match="no features 'plp'"):
        speech.features(torch.zeros(400), 16000, "plp")


@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_tone_is_loudest_in_its_band(rate):
    top = 2595 * math.log10(1 + rate / 2 / 700)
    middles = [700 * (10 ** (top * (band + 1) / 27 / 2595) - 1) for band in range(26)]
    for band in (8, 15, 22):
        mel = speech.log_mel(tone(middles[band], rate), rate)
        assert mel.shape == (48, 26)  # 0.5 s: 1 + (0.5 - 0.025) / 0.010, rounded down
        assert (mel.argmax(1) == band).all()


def test_cepstra_are_the_cosine_transform():
    samples = 0.1 * torch.randn(4000)
    mel, x = speech.log_mel(samples, 8000), speech.mfcc(samples, 8000)
    assert x.shape == (48, 13)
    for k in (1, 5, 12):
        basis = [math.sqrt(2 / 26) * math.cos(math.pi * k * (n + 0.5) / 26) for n in range(26)]
        torch.testing.assert_close(x[:, k], mel @ torch.tensor(basis), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x[0, 0], samples[:200].square().sum().log())
    # Twice as loud: every band and the energy rise alike, and the cepstra stay.
    louder = speech.mfcc(2 * samples, 8000)
    torch.testing.assert_close(louder[:, 0] - x[:, 0], torch.full((48,), math.log(4)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(louder[:, 1:], x[:, 1:], rtol=1e-4, atol=1e-4)


def test_deltas_are_slopes():
    line = 3 * torch.arange(10.0)[:, None] + torch.tensor([0.0, 5.0])
    slopes = speech.deltas(line)
    torch.testing.assert_close(slopes[2:-2], torch.full((6, 2), 3.0))
    assert (speech.deltas(torch.ones(1, 4)) == 0).all()
    assert speech.features(torch.randn(100), 8000).shape == (1, 26), "shorter than a window: one frame"
    assert speech.features(torch.randn(8000), 16000, "log_mel").shape == (48, 52)


def test_frames_have_their_centres():
    assert speech.centres(3, 16000).tolist() == [200, 360, 520]


def test_digits_are_split_by_their_index(tmp_path):
    for name in ("3_ann_0", "3_ann_4", "3_ann_5", "7_bob_12"):
        write_wav(tmp_path / f"{name}.wav", (1000 * np.random.randn(2000)).astype("<i2").tobytes())
    test, train = ([*speech.digits(tmp_path, test=test)] for test in (True, False))
    assert [u.name for u in test] == ["3_ann_0", "3_ann_4"]
    assert [(u.name, u.speaker) for u in train] == [("3_ann_5", "ann"), ("7_bob_12", "bob")]
    assert train[1].features.shape == (23, 26)
    assert train[1].labels.tolist() == [7] * 23
    with pytest.raises(FileNotFoundError, match=r"no DIGIT_SPEAKER_INDEX\.wav"):
        next(speech.digits(tmp_path / "empty", test=True))


def test_synthetic_frames_follow_their_rule():
    """The labels can be told from the symbols on both sides, and from one side only in half of the segments."""
    clean, again = speech.synthetic(20, noise=0.0), speech.synthetic(20, noise=0.0)
    for one, other in zip(clean, again, strict=True):
        assert torch.equal(one.features, other.features)
        assert torch.equal(one.labels, other.labels)
    vectors = {}
    for utterance in clean:
        assert utterance.features.shape == (len(utterance.labels), 12)
        for x, label in zip(utterance.features, utterance.labels.tolist(), strict=True):
            vectors.setdefault(tuple(x.tolist()), set()).add(label // 2)
    assert len(vectors) == 6
    assert all(len(symbols) == 1 for symbols in vectors.values()), "a vector is one symbol"
    for utterance in clean:
        new = [True, *(utterance.features[1:] != utterance.features[:-1]).any(1).tolist()]
        labels = utterance.labels[torch.tensor(new)].tolist()
        assert 6 <= len(labels) <= 12
        assert len(utterance.labels) <= 8 * len(labels)
        for n, label in enumerate(labels):
            side = n - 1 if label // 2 % 2 == 0 else n + 1
            neighbour = labels[side] // 2 if 0 <= side < len(labels) else 0
            assert label % 2 == (neighbour >= 3)
