from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessorPil

from models.assess.safety_checker import SafetyChecker, blacken, blur
from models.catalogue.catalogue import Catalogue
from models.errors import CheckpointError, SafetyUnknownError
from models.runtime.library_logging import quiet
from models.shapes.training.data import sample
from models.shapes.world import FORBIDDEN
from models.store.resolve_checkpoint import resolve

CPU: Any = SimpleNamespace(name="cpu", dtype=torch.float32, label="this CPU", rows=4)
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 16,
}


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pictures(count: int, height: int = 48, width: int = 64) -> list[npt.NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    made = [random.integers(0, 256, (height, width, 3), dtype=np.uint8) // (1 + n % 5) for n in range(count)]
    for each in made:
        each.setflags(write=False)
    return made


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny random checker of the real classes, its thresholds such that about half is flagged."""
    folder = tmp_path_factory.mktemp("safety")
    torch.manual_seed(1)
    model = StableDiffusionSafetyChecker(CLIPConfig(vision_config=VISION, projection_dim=16)).eval()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    values = processor(images=pictures(64), return_tensors="pt").pixel_values
    with torch.no_grad(), quiet():
        for parameter in (model.concept_embeds, model.special_care_embeds):
            parameter.copy_(torch.randn(parameter.shape))
        embeddings = model.visual_projection(model.vision_model(values).pooler_output)
        unit = torch.nn.functional.normalize
        for name, share in (("concept_embeds", 0.96), ("special_care_embeds", 0.8)):
            cosines = unit(embeddings) @ unit(getattr(model, name)).t()
            getattr(model, f"{name}_weights").copy_(cosines.quantile(share, dim=0))
        model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return SimpleNamespace(path=folder, digest="0" * 64, card=SimpleNamespace(id="tiny", concepts=()))


@pytest.fixture(scope="module")
def checker(checkpoint: Any) -> SafetyChecker:
    return SafetyChecker.load(checkpoint, CPU)


def test_concepts_are_named_by_the_card_as_far_as_it_names_them(checkpoint: Any) -> None:
    assert SafetyChecker.load(checkpoint, CPU).concept_names == ()
    card = SimpleNamespace(id="tiny", concepts=("red triangle", "yellow cross", "purple circle"))
    named = SafetyChecker.load(SimpleNamespace(**vars(checkpoint) | {"card": card}), CPU)
    assert named.concept_names == card.concepts


def test_a_card_that_names_more_concepts_than_there_are_is_refused(checkpoint: Any) -> None:
    card = SimpleNamespace(id="tiny", concepts=tuple(f"thing {number}" for number in range(18)))
    with pytest.raises(CheckpointError, match="has 17 concepts, but its card, 'tiny', names 18"):
        SafetyChecker.load(SimpleNamespace(**vars(checkpoint) | {"card": card}), CPU)


def test_the_trained_checkers_concepts_have_the_names_of_what_it_forbids(tmp_path: Path) -> None:
    named = Catalogue.load(tmp_path).get("shapes-safety").concepts
    assert named == tuple(f"{colour} {kind}" for colour, kind in FORBIDDEN)


@pytest.fixture
def reference(checkpoint: Any) -> Iterator[Any]:
    with quiet():
        yield StableDiffusionSafetyChecker.from_pretrained(checkpoint.path).eval()


def test_decides_as_diffusers_does_on_pictures(
    checker: SafetyChecker, checkpoint: Any, reference: Any
) -> None:
    images = pictures(64)
    processor = CLIPImageProcessorPil.from_pretrained(checkpoint.path)
    values = processor(images=images, return_tensors="pt").pixel_values
    _, flagged = reference(clip_input=values, images=[np.array(image) for image in images])
    scores = checker.score(images)
    assert [score.flagged for score in scores] == flagged
    assert 16 < sum(flagged) < 48


def test_the_trained_checker_decides_as_diffusers_does_on_drawn_scenes(tmp_path: Path) -> None:
    trained = resolve(Catalogue.load(tmp_path).get("shapes-safety"), tmp_path)
    random = np.random.default_rng(3)
    clean = sample(random, 1000).pixels
    images = list((clean + random.normal(0, 20, clean.shape)).clip(0, 255).astype(np.uint8))
    processor = CLIPImageProcessorPil.from_pretrained(trained.path)
    with quiet():
        reference: Any = StableDiffusionSafetyChecker.from_pretrained(trained.path).float().eval()
        values = processor(images=images, return_tensors="pt").pixel_values
        _, flagged = reference(clip_input=values, images=np.zeros((1000, 1)))
    scores = SafetyChecker.load(trained, SimpleNamespace(**vars(CPU) | {"rows": 100})).score(images)
    assert [score.flagged for score in scores] == flagged
    assert 50 < sum(flagged) < 500


class Passed(torch.nn.Module):
    """Hands on what it gets, as the vision model hands on its pooled output."""

    def forward(self, values: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, values


def test_decides_as_diffusers_does_on_embeddings(
    checker: SafetyChecker, checkpoint: Any, reference: Any
) -> None:
    values = CLIPImageProcessorPil.from_pretrained(checkpoint.path)(images=pictures(64), return_tensors="pt")
    with torch.no_grad():
        seen = reference.visual_projection(reference.vision_model(values.pixel_values).pooler_output)
    torch.manual_seed(2)
    embeddings = seen.mean(dim=0) + seen.std(dim=0) * torch.randn(5000, 16) * 0.6
    reference.vision_model, reference.visual_projection = Passed(), torch.nn.Identity()
    _, flagged = reference(clip_input=embeddings, images=np.zeros((5000, 1)))
    scores = checker.judge(embeddings)
    assert [score.flagged for score in scores] == flagged
    assert 500 < sum(flagged) < 4500
    assert 500 < sum(max(score.special_care) > 0 for score in scores) < 4500
    assert any(-0.01 <= max(score.concepts) <= 0.01 for score in scores)


def test_scores_follow_the_formula(checker: SafetyChecker, reference: Any) -> None:
    """At thresholds shifted by hand: the adjustment comes with the first special-care score above 0."""
    embedding = reference.special_care_embeds[1][None]
    score = checker.judge(embedding)[0]
    cosines = torch.cosine_similarity(embedding, reference.special_care_embeds)
    raw = (cosines - reference.special_care_embeds_weights).tolist()
    first = next(index for index in range(3) if raw[index] > 0)
    expected = [value + 0.01 * (index > first) for index, value in enumerate(raw)]
    assert score.special_care == pytest.approx(expected, abs=6e-4)
    cosines = torch.cosine_similarity(embedding, reference.concept_embeds)
    expected = (cosines - reference.concept_embeds_weights + 0.01).tolist()
    assert score.concepts == pytest.approx(expected, abs=6e-4)
    assert (len(score.concepts), len(score.special_care)) == (17, 3)


def test_pictures_of_many_sizes_go_together(checker: SafetyChecker) -> None:
    images = [*pictures(2), *pictures(1, 3, 200), *pictures(1, 33, 32), *pictures(1, 3, 3)]
    assert checker.score(images) == [checker.score([image])[0] for image in images]
    assert checker.score([]) == []


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_score_is_the_same_in_any_company(
    checker: SafetyChecker, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(checker, "_judge", list)  # before anything is rounded
    images = pictures(7)
    with on_threads(threads):
        alone = [checker.score([image])[0] for image in images]
        for place in range(len(images)):
            together = checker.score([*images[place:], *images[:place]])
            assert all(
                np.array_equal(found, alone[(place + number) % len(images)])
                for number, found in enumerate(together)
            )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 0.0])
def test_an_unusable_embedding_is_never_called_safe(checker: SafetyChecker, value: float) -> None:
    embeddings = torch.randn(5, 16)
    embeddings[3] = value
    with pytest.raises(SafetyUnknownError, match="picture 4 of 5"):
        checker.judge(embeddings)


@pytest.mark.parametrize("number", [0, 2, 3, 19])
def test_an_image_with_one_score_that_is_not_finite_is_never_called_safe(
    checker: SafetyChecker, number: int
) -> None:
    compared = np.ones((5, 21), np.float32)
    compared[3, number] = np.nan
    with pytest.raises(SafetyUnknownError, match="picture 4 of 5"):
        checker._judge(compared)


def damaged(checkpoint: Any, folder: Path, **changes: torch.Tensor | None) -> Any:
    weights = load_file(checkpoint.path / "model.safetensors") | changes
    save_file(
        {key: value for key, value in weights.items() if value is not None}, folder / "model.safetensors"
    )
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_bytes((checkpoint.path / name).read_bytes())
    return SimpleNamespace(path=folder, digest="0" * 64, card=SimpleNamespace(id="tiny", concepts=()))


def test_a_checkpoint_that_would_let_all_pass_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lacks 1 weights, among them concept_embeds"):
        SafetyChecker.load(damaged(checkpoint, tmp_path, concept_embeds=None), CPU)
    nan = torch.full((17,), float("nan"))
    with pytest.raises(CheckpointError, match="concept_embeds hold values that are not finite"):
        SafetyChecker.load(damaged(checkpoint, tmp_path, concept_embeds_weights=nan), CPU)
    with pytest.raises(CheckpointError, match="can't be loaded as a safety checker"):
        SafetyChecker.load(damaged(checkpoint, tmp_path, concept_embeds=torch.ones(5, 5)), CPU)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="can't be loaded as a safety checker"):
        SafetyChecker.load(SimpleNamespace(path=tmp_path, digest="0" * 64), CPU)
    with pytest.raises(CheckpointError, match="can't be loaded as a safety checker"):
        SafetyChecker.load(SimpleNamespace(path=tmp_path / "nowhere", digest="0" * 64), CPU)


def test_half_precision_agrees(checker: SafetyChecker, checkpoint: Any) -> None:
    half = SafetyChecker.load(
        checkpoint,
        SimpleNamespace(name="cpu", dtype=torch.bfloat16, label="", rows=4),  # type: ignore[arg-type]
    )
    images = pictures(16)
    exact = np.array([score.concepts for score in checker.score(images)])
    coarse = np.array([score.concepts for score in half.score(images)])
    assert np.median(np.abs(coarse - exact)) <= 0.001
    assert np.abs(coarse - exact).max() <= 0.013, "more than rounding and one adjustment apart"


@pytest.mark.parametrize("size", [(64, 64), (512, 768), (5, 900)])
def test_blackened_and_blurred_are_copies(size: tuple[int, int]) -> None:
    original = pictures(1, *size)[0]
    assert blacken(original).shape == blur(original).shape == original.shape
    assert not blacken(original).any()
    assert np.abs(blur(original).mean(axis=(0, 1)) - original.mean(axis=(0, 1))).max() < 4


def test_a_blur_leaves_broad_colour_only() -> None:
    for side in (64, 512):
        stripes = np.zeros((side, side, 3), np.uint8)
        stripes[:, (np.arange(side) * 16 // side) % 2 == 0] = 255
        assert blur(stripes)[side // 4 : -side // 4, side // 4 : -side // 4].std() < 6
        halves = np.zeros((side, side, 3), np.uint8)
        halves[:, : side // 2] = (255, 0, 0)
        assert blur(halves)[side // 2, 0, 0] > 240
        assert blur(halves)[side // 2, -1, 0] < 15
