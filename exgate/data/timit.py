"""TIMIT (Garofolo et al. 1993, LDC93S1): a folder of it as labelled frames, and the folding of 61 phones into 39.

The corpus is licensed by the Linguistic Data Consortium and does not come with exgate.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from exgate.data.speech import Utterance, centres, features, read_audio

_PHONES = (
    "aa ae ah ao aw ax ax-h axr ay b bcl ch d dcl dh dx eh el em en eng epi er ey f g gcl h# hh hv ih ix iy jh k kcl l "
    "m n ng nx ow oy p pau pcl q r s sh t tcl th uh uw ux v w y z zh"
)
PHONES: tuple[str, ...] = tuple(_PHONES.split())
# Lee and Hon 1989: these count as one; q, the glottal stop, is left out.
_SAME = (
    "aa ao", "ah ax ax-h", "er axr", "hh hv", "ih ix", "l el", "m em", "n en nx", "ng eng", "sh zh", "uw ux",
    "sil bcl dcl gcl pcl tcl kcl h# pau epi",
)  # fmt: skip
_INTO = {phone: group.split()[0] for group in _SAME for phone in group.split()}
FOLDED = sorted({_INTO.get(phone, phone) for phone in PHONES} - {"q"})
_TABLE = torch.tensor([FOLDED.index(_INTO.get(phone, phone)) if phone != "q" else -100 for phone in PHONES])


def fold(labels: Tensor) -> Tensor:
    """Numbers in PHONES -> numbers in FOLDED, in any shape; q and what is ignored (-100) become -100."""
    known = labels >= 0
    return torch.where(known, _TABLE.to(labels.device)[labels.clamp(min=0)], -100)


def phones(file: str | Path) -> list[tuple[int, int, str]]:
    """The segments of a .PHN file: first sample, end, phone.

    Raises:
        ValueError: a line is not of this form, or names a phone that TIMIT does not have.
    """
    segments = []
    for number, line in enumerate(Path(file).read_text(encoding="ascii").splitlines(), 1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 3 or not (parts[0].isdigit() and parts[1].isdigit()) or parts[2] not in PHONES:
            raise ValueError(f"timit: line {number} of '{file}' is {line!r}; it should be like '0 3050 h#'")
        segments.append((int(parts[0]), int(parts[1]), parts[2]))
    if not segments:
        raise ValueError(f"timit: '{file}' is empty; it should hold lines like '0 3050 h#'")
    return segments


def frame_labels(segments: list[tuple[int, int, str]], frames: int, rate: int) -> Tensor:
    """The phone (T,), as its number in PHONES, in the middle of each frame; past the last segment, that one's."""
    ends = torch.tensor([end for _, end, _ in segments])
    place = torch.searchsorted(ends, centres(frames, rate), right=True).clamp(max=len(segments) - 1)
    numbers = {phone: number for number, phone in enumerate(PHONES)}
    return torch.tensor([numbers[phone] for _, _, phone in segments])[place]


def utterances(
    folder: str | Path, split: str, *, kind: str = "mfcc", dialect_sentences: bool = False
) -> Iterator[Utterance]:
    """The utterances of a split, in a fixed order.

    Args:
        folder: with TRAIN and TEST in it, as the corpus comes; names in upper or lower case.
        split: "train" or "test".
        kind: of `exgate.data.speech.features`.
        dialect_sentences: with SA1 and SA2, which every speaker reads; they are usually left out.
    Raises:
        FileNotFoundError: there is no such split, no .PHN file in it, or one without its audio.
    """
    there = Path(folder).iterdir() if Path(folder).is_dir() else ()
    found = [path for path in there if path.name.lower() == split.lower() and path.is_dir()]
    files = sorted(file for path in found for file in path.rglob("*") if file.suffix.lower() == ".phn")
    if not files:
        raise FileNotFoundError(f"timit: no .PHN file in a folder '{split.upper()}' of '{folder}'")
    return _read(files, kind, dialect_sentences)


def _read(files: list[Path], kind: str, dialect_sentences: bool) -> Iterator[Utterance]:
    for file in files:
        stem = file.stem.lower()
        if stem.startswith("sa") and not dialect_sentences:
            continue
        # SA1.WAV is a SPHERE file; copies of the corpus have SA1.WAV.wav beside or in place of it.
        sounds = sorted(
            path for path in file.parent.iterdir() if path.name.lower() in (f"{stem}.wav", f"{stem}.wav.wav")
        )
        if not sounds:
            raise FileNotFoundError(f"timit: '{file}' has no {file.stem}.WAV beside it")
        samples, rate = read_audio(sounds[0])
        x = features(samples, rate, kind)
        yield Utterance(
            x, frame_labels(phones(file), len(x), rate), file.parent.name, f"{file.parent.name}/{file.stem}"
        )
