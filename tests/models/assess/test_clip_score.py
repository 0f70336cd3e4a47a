from collections.abc import Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from models.assess.clip_score import ClipScorer
from models.errors import CheckpointError, ModelError
from models.runtime.library_logging import quiet
from tests.models.tiny_clip import build_clip

CPU: Any = SimpleNamespace(name="cpu", dtype=torch.float32, label="this CPU", rows=4)
HALF: Any = SimpleNamespace(name="cpu", dtype=torch.bfloat16, label="this CPU", rows=4)
PROMPTS = [
    "a red fox",
    "",
    "a small red circle on top of a large blue square, on a white background",
    "füchse 狐狸",
    "a blue bird " * 60,
    "two cats",
    "a photograph of an old man",
]


def pictures(count: int) -> list[npt.NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    sizes = [(48, 64), (32, 32), (90, 31), (3, 200)]
    made = [
        random.integers(0, 256, (*sizes[n % 4], 3), dtype=np.uint8) // np.uint8(1 + n % 5)
        for n in range(count)
    ]
    for each in made:
        each.setflags(write=False)
    return made


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return SimpleNamespace(path=build_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def scorer(checkpoint: Any) -> ClipScorer:
    return ClipScorer.load(checkpoint, CPU)


def by_transformers(checkpoint: Any, pairs: Sequence[tuple[npt.NDArray[np.uint8], str]]) -> list[float]:
    """Each pair alone, through CLIPModel's own forward, which divides by the lengths and scales the cosine."""
    with quiet(), torch.no_grad():
        model = CLIPModel.from_pretrained(checkpoint.path).eval()
        processor = CLIPProcessor(
            CLIPImageProcessorPil.from_pretrained(checkpoint.path),
            CLIPTokenizer.from_pretrained(checkpoint.path),
        )
        scores = []
        for pixels, prompt in pairs:
            image = Image.fromarray(pixels)
            inputs = processor(
                text=[prompt], images=[image], return_tensors="pt", truncation=True, max_length=77
            )
            scores.append(100 * model(**inputs).logits_per_image.item() / model.logit_scale.exp().item())
        return [max(score, 0) for score in scores]


def test_the_checkpoint_is_the_same_whatever_was_drawn_before(checkpoint: Any, tmp_path: Path) -> None:
    assert torch.initial_seed() == 0, "of all tests"
    again = SimpleNamespace(path=build_clip(tmp_path))
    weights, others = (load_file(each.path / "model.safetensors") for each in (checkpoint, again))
    assert all(torch.equal(values, others[name]) for name, values in weights.items())


def test_scores_as_transformers_does(scorer: ClipScorer, checkpoint: Any) -> None:
    pairs = list(product(pictures(len(PROMPTS)), PROMPTS))
    images, prompts = zip(*pairs, strict=True)
    expected = by_transformers(checkpoint, pairs)
    assert scorer.score(images, prompts) == pytest.approx(expected, abs=1e-3)
    assert len({round(score, 2) for score in expected}) > 10, "the scores say nothing"
    assert min(expected) == 0, "no pair is on the far side"


def test_a_score_is_its_own_pairs(scorer: ClipScorer) -> None:
    images = pictures(7)
    together = scorer.score(images, PROMPTS)
    assert together == scorer.score(images, PROMPTS)
    for index in (0, 4, 6):
        alone = scorer.score([images[index]], [PROMPTS[index]])
        assert alone == pytest.approx([together[index]], abs=1e-4), "up to how a processor's kernels round"
    assert scorer.score([], []) == []
    with pytest.raises(ValueError, match="shorter"):
        scorer.score(images, PROMPTS[:6])


def test_the_end_of_a_long_prompt_is_not_read(scorer: ClipScorer) -> None:
    image = pictures(1)
    long = scorer.score(image, ["a blue bird " * 60])
    assert scorer.score(image, ["a blue bird " * 60 + "and a fox"]) == long
    assert scorer.score(image, ["a fox and " + "a blue bird " * 60]) != long


def test_half_precision_agrees(scorer: ClipScorer, checkpoint: Any) -> None:
    images = pictures(7)
    coarse = ClipScorer.load(checkpoint, HALF).score(images, PROMPTS)
    assert coarse == pytest.approx(scorer.score(images, PROMPTS), abs=0.5)


def damaged(checkpoint: Any, folder: Path, **changes: torch.Tensor | None) -> Any:
    for file in checkpoint.path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(checkpoint.path / "model.safetensors") | changes
    save_file(
        {key: value for key, value in weights.items() if value is not None}, folder / "model.safetensors"
    )
    return SimpleNamespace(path=folder)


def test_damaged_checkpoints_are_refused(checkpoint: Any, tmp_path: Path) -> None:
    name = "text_projection.weight"
    with pytest.raises(CheckpointError, match=f"lacks 1 weights, among them {name}"):
        ClipScorer.load(damaged(checkpoint, tmp_path, **{name: None}), CPU)
    with pytest.raises(CheckpointError, match=f"{name} holds values that are not finite"):
        ClipScorer.load(damaged(checkpoint, tmp_path, **{name: torch.full((16, 32), torch.nan)}), CPU)
    with pytest.raises(CheckpointError, match="can't be loaded as a CLIP"):
        ClipScorer.load(damaged(checkpoint, tmp_path, **{name: torch.ones(5, 5)}), CPU)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="can't be loaded as a CLIP"):
        ClipScorer.load(SimpleNamespace(path=tmp_path), CPU)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="can't be loaded as a CLIP"):
        ClipScorer.load(SimpleNamespace(path=tmp_path / "nowhere"), CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"eos_token_id": 7}, "looks for token 7"), ({"vocab_size": 300}, "its text encoder")],
)
def test_a_tokenizer_of_another_model_is_refused(
    checkpoint: Any, tmp_path: Path, change: dict[str, int], complaint: str
) -> None:
    with quiet():
        config = CLIPConfig.from_pretrained(checkpoint.path)
        for name, value in change.items():
            setattr(config.text_config, name, value)
        CLIPModel(config).save_pretrained(tmp_path)
    CLIPTokenizer.from_pretrained(checkpoint.path).save_pretrained(tmp_path)
    CLIPImageProcessorPil.from_pretrained(checkpoint.path).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=complaint):
        ClipScorer.load(SimpleNamespace(path=tmp_path), CPU)  # type: ignore[arg-type]


def test_no_number_is_never_a_score(checkpoint: Any) -> None:
    broken = ClipScorer.load(checkpoint, CPU)
    with torch.no_grad():
        broken._model.visual_projection.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="no number"):
        broken.score(pictures(1), ["a fox"])
