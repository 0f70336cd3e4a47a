"""Build a small CLIP tokenizer in the usual format: byte letters, and merges for common words of prompts."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

START = "<|startoftext|>"
END = "<|endoftext|>"
_WORD_END = "</w>"
_LIMIT = 77

_WORDS = """
a an the and of in on at to with by for from over under is are it its his her that this as into through no
not er ing ed est ion ly ness ment ter ent al es st th ch sh cat dog bird horse fish bear lion tiger fox
owl robot man woman boy girl child person people face hand eye hair head house room door window chair
table car train ship boat bike road street city town tree forest flower grass leaf mountain hill river
lake sea ocean beach island sky cloud sun moon star night day light dark shadow fire water snow rain ice
wind storm red green blue yellow orange purple pink brown black white grey gold silver color big small
large little old young new long high tall short wide tiny huge two three four five one many some photo
photograph picture image painting drawing sketch portrait landscape oil watercolor pencil digital art
style detailed realistic sharp blurry quality close up view front back side top wearing holding sitting
standing walking running flying playing looking eating made wood metal glass stone paper food cake bread
fruit apple cup bottle book clock hat shirt dress shoe shape circle square triangle background
"""


def build_tokenizer(folder: Path, extra_words: str = "", limit: int = _LIMIT) -> Any:
    """Write vocab.json and merges.txt into `folder` and return the CLIPTokenizer made from them.

    `extra_words` become one token each, besides the common ones; `limit` is the maximum number of tokens of a prompt.
    """
    from tokenizers.pre_tokenizers import ByteLevel  # noqa: PLC0415 - needed only to build a tokenizer
    from transformers import CLIPTokenizer  # noqa: PLC0415

    letters = sorted(ByteLevel.alphabet())
    merges = _merges(f"{_WORDS} {extra_words}")
    pieces = [*letters, *(letter + _WORD_END for letter in letters), *("".join(pair) for pair in merges)]
    vocab = {piece: number for number, piece in enumerate([*pieces, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=limit
    )


def _merges(text: str) -> list[tuple[str, str]]:
    """Learn byte-pair encoding merges (Sennrich et al. 2016) from the words, until each of them is one token."""
    words = [[*word[:-1], word[-1] + _WORD_END] for word in text.split()]
    merges = []
    while pairs := Counter(pair for word in words for pair in pairwise(word)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = [_merged(word, best) for word in words]
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged
