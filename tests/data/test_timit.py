"""TIMIT: a folder laid out as the corpus is, with invented recordings, and the folding of its phones."""

import numpy as np
import pytest
import torch

from exgate.data import timit


def recording(samples: np.ndarray) -> bytes:
    lines = ["NIST_1A", "   1024", "sample_rate -i 16000", "channel_count -i 1", "sample_n_bytes -i 2", "end_head", ""]
    return "\n".join(lines).encode().ljust(1024) + samples.astype("<i2").tobytes()


@pytest.fixture
def corpus(tmp_path):
    sound = (1000 * np.random.randn(16000)).astype(np.int16)
    for split, region, speaker, name in (
        ("TRAIN", "DR1", "FCJF0", "SA1"), ("TRAIN", "DR1", "FCJF0", "SX37"), ("TRAIN", "DR2", "MABC0", "SI648"),
        ("TEST", "DR1", "FAKS0", "SX43"),
    ):  # fmt: skip
        folder = tmp_path / split / region / speaker
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.WAV").write_bytes(recording(sound))
        (folder / f"{name}.PHN").write_text("0 3050 h#\n3050 4559 sh\n4559 10000 ix\n10000 15900 h#\n")
    return tmp_path


def test_61_phones_fold_into_39():
    assert len(timit.PHONES) == len(set(timit.PHONES)) == 61
    assert len(timit.FOLDED) == 39
    names = [timit.FOLDED[n] if n >= 0 else None for n in timit.fold(torch.arange(61)).tolist()]
    into = dict(zip(timit.PHONES, names, strict=True))
    # Lee and Hon (1989), table 3, and the closures with silence.
    groups = {"aa": "aa ao", "ah": "ah ax ax-h", "er": "er axr", "hh": "hh hv", "ih": "ih ix", "l": "l el", "m": "m em"}
    groups |= {"n": "n en nx", "ng": "ng eng", "sh": "sh zh", "uw": "uw ux"}
    groups |= {"sil": "bcl dcl gcl pcl tcl kcl h# pau epi"}
    for name, members in groups.items():
        assert {phone for phone, folded in into.items() if folded == name} == set(members.split())
    assert into["q"] is None
    left = set(timit.PHONES) - {"q"} - {phone for members in groups.values() for phone in members.split()}
    assert all(into[phone] == phone for phone in left)
    assert timit.fold(torch.tensor([[-100, 0]])).tolist() == [[-100, timit.FOLDED.index("aa")]]


def test_a_folder_is_read(corpus):
    train = list(timit.utterances(corpus, "train"))
    assert [(u.speaker, u.name) for u in train] == [("FCJF0", "FCJF0/SX37"), ("MABC0", "MABC0/SI648")]
    assert len(list(timit.utterances(corpus, "train", dialect_sentences=True))) == 3
    (test,) = timit.utterances(corpus, "test", kind="log_mel")
    assert test.features.shape == (98, 52)
    labels = train[0].labels
    assert train[0].features.shape == (98, 26)
    for t in range(98):
        centre = 160 * t + 200
        phone = "h#" if centre < 3050 else "sh" if centre < 4559 else "ix" if centre < 10000 else "h#"
        assert timit.PHONES[labels[t]] == phone


def test_lower_case_and_riff_copies(corpus):
    folder = corpus / "TEST" / "DR1" / "FAKS0"
    (folder / "SX43.WAV").rename(folder / "sx43.wav.wav")
    (folder / "SX43.PHN").rename(folder / "sx43.phn")
    (corpus / "TEST").rename(corpus / "test")
    assert len(list(timit.utterances(corpus, "test"))) == 1


def test_what_is_missing_or_damaged_is_named(corpus):
    with pytest.raises(FileNotFoundError, match=r"no .PHN file in a folder 'DEV'"):
        timit.utterances(corpus, "dev")
    folder = corpus / "TEST" / "DR1" / "FAKS0"
    (folder / "SX43.PHN").write_text("0 3050 h#\n3050 4559 shh\n")
    with pytest.raises(ValueError, match=r"line 2 of .*SX43.PHN' is '3050 4559 shh'; it should be like"):
        list(timit.utterances(corpus, "test"))
    (folder / "SX43.PHN").write_text("")
    with pytest.raises(ValueError, match="is empty"):
        timit.phones(folder / "SX43.PHN")
    (folder / "SX43.WAV").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no SX43.WAV beside it"):
        list(timit.utterances(corpus, "test"))
