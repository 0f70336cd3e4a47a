"""Image classifiers: they score as transformers does, whatever else is in the batch, and refuse what isn't theirs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPImageProcessorPil,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from models.assess.safety_image_classifier import ImageClassifier, labels_of
from models.errors import CheckpointError
from models.runtime.library_logging import quiet
from tests.models.assess.test_safety_checker import on_threads

CPU: Any = SimpleNamespace(name="cpu", dtype=torch.float32, label="this CPU", rows=4)
LABELS = {0: "normal", 1: "suggestive", 2: "nsfw"}
VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
NAMES = {"id2label": LABELS, "label2id": {label: number for number, label in LABELS.items()}}


def pictures(count: int) -> list[npt.NDArray[np.uint8]]:
    random = np.random.default_rng(4)
    sizes = [(40, 60), (64, 64), (33, 90)]
    return [random.integers(0, 256, (*sizes[n % 3], 3), dtype=np.uint8) // (1 + n % 4) for n in range(count)]


def write(folder: Path, kind: str, **config: Any) -> Any:
    """A checkpoint with random weights; its card says what its configuration does."""
    torch.manual_seed(3)
    with quiet():
        if kind == "vit":
            vit = ViTConfig(**VISION, **NAMES, **config)
            model: Any = ViTForImageClassification(vit)
            processor: Any = ViTImageProcessorPil(size={"height": 32, "width": 32})
        else:
            clip = CLIPConfig(
                vision_config=VISION | {"projection_dim": 16}, projection_dim=16, **NAMES, **config
            )
            model = CLIPForImageClassification(clip)
            processor = CLIPImageProcessorPil(
                size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
            )
        head = model.classifier
        torch.nn.init.normal_(head.weight, std=2)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    card = SimpleNamespace(id="own", labels=tuple(LABELS.values()))
    return SimpleNamespace(path=folder, digest="0" * 64, card=card)


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_scores_are_the_probabilities_that_transformers_computes(tmp_path: Path, kind: str) -> None:
    checkpoint, images = write(tmp_path, kind), pictures(10)
    classifier = ImageClassifier.load(checkpoint, CPU)
    assert (classifier.name, classifier.labels) == ("own", ("normal", "suggestive", "nsfw"))
    found = classifier.score(images)
    plain = {"vit": ViTForImageClassification, "clip": CLIPForImageClassification}[kind]
    reader = {"vit": ViTImageProcessorPil, "clip": CLIPImageProcessorPil}[kind]
    with quiet(), torch.no_grad():
        values = reader.from_pretrained(tmp_path)(images=images, return_tensors="pt").pixel_values
        expected = plain.from_pretrained(tmp_path).eval()(values).logits.softmax(dim=1).numpy()
    got = np.array([list(scores.values()) for scores in found])
    assert np.abs(got - expected).max() < 0.001
    assert len(set(got.argmax(axis=1).tolist())) > 1
    assert classifier.score([]) == []


def test_labels_that_exclude_nothing_have_probabilities_of_their_own(tmp_path: Path) -> None:
    checkpoint, images = write(tmp_path, "vit", problem_type="multi_label_classification"), pictures(3)
    found = ImageClassifier.load(checkpoint, CPU).score(images)
    with quiet(), torch.no_grad():
        values = ViTImageProcessorPil.from_pretrained(tmp_path)(
            images=images, return_tensors="pt"
        ).pixel_values
        expected = ViTForImageClassification.from_pretrained(tmp_path).eval()(values).logits.sigmoid().numpy()
    assert np.abs(np.array([list(scores.values()) for scores in found]) - expected).max() < 0.001


@pytest.mark.parametrize("kind", ["vit", "clip"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_score_is_the_same_in_any_batch(tmp_path: Path, kind: str, threads: int) -> None:
    classifier, images = ImageClassifier.load(write(tmp_path, kind), CPU), pictures(9)
    with on_threads(threads):
        logits = classifier._logits(images[:4])
        assert all(
            torch.equal(logits[number], classifier._logits([images[number]] * 4)[0]) for number in range(4)
        )
        together = classifier.score(images)
        assert [classifier.score([image])[0] for image in images] == together


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({"model_type": "resnet"}, "is of the type 'resnet'; classifiers are vit or clip"),
        ({"model_type": None}, "is of the type None"),
        (
            {"id2label": {"0": "a", "1": "b", "2": "c"}},
            "has the labels a, b, c, but its card, 'own', says normal",
        ),
        ({"hidden_size": 24}, "can't be loaded as an image classifier|lacks"),
    ],
)
def test_another_configuration_is_refused(tmp_path: Path, spoil: dict[str, Any], reason: str) -> None:
    checkpoint = write(tmp_path, "vit")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | spoil))
    with pytest.raises(CheckpointError, match=reason):
        ImageClassifier.load(checkpoint, CPU)


def test_missing_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    checkpoint, file = write(tmp_path, "vit"), tmp_path / "model.safetensors"
    weights = load_file(file)
    whole = dict(weights)
    weights["classifier.bias"][0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"its classifier\.bias holds values that are not finite"):
        ImageClassifier.load(checkpoint, CPU)
    del whole["classifier.weight"]
    save_file(whole, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights, among them classifier\.weight"):
        ImageClassifier.load(checkpoint, CPU)


def test_labels_are_in_the_order_of_their_numbers() -> None:
    assert labels_of({"10": "k", "2": "b", "0": "a"}) == ("a", "b", "k")
