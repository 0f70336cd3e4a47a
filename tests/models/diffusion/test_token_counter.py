"""Counting tokens as the model's tokenizer does."""

from pathlib import Path

import pytest

from models.diffusion.token_counter import TokenCounter
from models.errors import CheckpointError
from models.store.resolve_checkpoint import Checkpoint


@pytest.fixture(scope="module")
def counter(tiny_checkpoint: Checkpoint) -> TokenCounter:
    return TokenCounter.load(tiny_checkpoint)


def test_start_and_end_count(counter: TokenCounter) -> None:
    assert counter.limit == 77
    assert counter.count([]) == []
    assert counter.count(["", "cat", "a red cat"]) == [2, 3, 5]


def test_counts_beyond_the_limit(counter: TokenCounter, capfd: pytest.CaptureFixture[str]) -> None:
    assert counter.count(["cat " * 75, "cat " * 76, "cat " * 50_000]) == [77, 78, 50_002]
    assert capfd.readouterr() == ("", "")


def test_every_byte_of_any_text_has_a_token(counter: TokenCounter) -> None:
    assert counter.count(["🦊", "🦊🦊", "日本", "\x00", "é"]) == [6, 10, 8, 3, 4]


def test_counts_what_the_text_encoder_gets(counter: TokenCounter, tiny_checkpoint: Checkpoint) -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(tiny_checkpoint.path / "tokenizer", local_files_only=True)
    prompts = ["A photo of the Eiffel Tower, 4k!", "  spaces\n and\tlines ", "don't", "x" * 30]
    ids = tokenizer(prompts).input_ids
    assert counter.count(prompts) == [len(row) for row in ids]
    assert tokenizer.unk_token_id not in [token for row in ids for token in row[1:-1]]


def test_says_that_the_tokenizer_is_damaged(copied: Checkpoint) -> None:
    for file in Path(copied.path / "tokenizer").iterdir():
        file.write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer can't be read"):
        TokenCounter.load(copied)
