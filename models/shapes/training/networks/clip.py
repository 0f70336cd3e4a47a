"""Train the small CLIP (Radford et al. 2021), whose vision encoder the safety checker reuses."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, normalize

from models.shapes.grammar import WORDS
from models.shapes.training.data import sample, wrong
from models.shapes.training.loop import Course, fit
from models.shapes.training.networks.auxiliary_heads import Said, Shown
from models.tiny_random.tokenizer import END, START, build_tokenizer

MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
LIMIT = 32
_NOISE = 0.06


def clip_tokenizer(folder: Path) -> Any:
    """Build a tokenizer in which every word of the grammar is one token."""
    return build_tokenizer(folder, " ".join(WORDS), LIMIT)


def text_settings(tokenizer: Any, width: int, layers: int) -> dict[str, Any]:
    """Return the CLIP text configuration fields that depend on the vocabulary and size."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": LIMIT,
        "bos_token_id": tokenizer.convert_tokens_to_ids(START),
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
    }


def seen(
    pixels: np.ndarray[Any, np.dtype[np.uint8]], device: torch.device, noise: float = _NOISE
) -> torch.Tensor:
    """Convert (N, 64, 64, 3) uint8 to CLIP's input, (N, 3, 64, 64) float32, with random slight blur and noise."""
    values = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255
    if noise:
        soft = torch.nn.functional.avg_pool2d(values, 3, stride=1, padding=1, count_include_pad=False)
        values = torch.lerp(values, soft, torch.rand(len(values), 1, 1, 1, device=device) * 0.8)
        amount = noise * torch.rand(len(values), 1, 1, 1, device=device)
        shade = 0.05 * torch.randn(len(values), 3, 1, 1, device=device)
        values = (values + amount * torch.randn_like(values) + shade).clamp(0, 1)
    mean, deviation = (torch.tensor(given, device=device).view(3, 1, 1) for given in (MEAN, DEVIATION))
    return (values - mean) / deviation


class Lesson(torch.nn.Module):
    """A CLIPModel with an auxiliary head on the features of each tower: one for the picture, one for the caption."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip
        self.shown = Shown(clip.config.projection_dim)
        self.said = Said(clip.config.projection_dim)


def train_clip(tokenizer: Any, course: Course) -> Any:
    """Train a CLIPModel to tell captions apart by single words: each picture is also paired with one wrong in a word.

    The auxiliary heads make its features encode what is shown and said; without them, the features ignore positions.
    """
    from transformers import CLIPConfig, CLIPModel  # noqa: PLC0415

    rng, plan, device = course.chance(), course.plan, course.device
    vision = {
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
    }
    text = text_settings(tokenizer, width=64, layers=3)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))
    lesson = Lesson(model).to(device)

    def loss_of(_: int) -> dict[str, torch.Tensor]:
        samples = sample(rng, plan.rows)
        captions = samples.captions + [wrong(text, rng) for text in samples.captions]
        tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        seen_ones = model.get_image_features(seen(samples.pixels, device)).pooler_output
        read_ones = model.get_text_features(**tokens.to(device)).pooler_output
        images, texts = normalize(seen_ones, dim=1), normalize(read_ones, dim=1)
        scale = model.logit_scale.exp().clamp(max=50)
        logits = scale * images @ texts.t()
        logits = logits + _repeated(samples.captions, captions).to(device)
        labels = torch.arange(plan.rows, device=device)
        own, other = logits.diagonal(), logits[:, plan.rows :].diagonal()
        return {
            "image": cross_entropy(logits, labels),
            "text": cross_entropy(logits[:, : plan.rows].t(), labels),
            "pair": torch.nn.functional.softplus(other - own).mean(),
            "shown": 0.3 * lesson.shown.loss(seen_ones, samples.scenes),
            "said": lesson.said.loss(read_ones, captions),
        }

    return fit(lesson, course, loss_of).clip


def _repeated(captions: list[str], all_captions: list[str]) -> torch.Tensor:
    """Return a mask with -1e4 where another row has the same caption, which is then not a negative example."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(all_captions))}
    rows = torch.tensor([numbers[text] for text in captions])
    columns = torch.tensor([numbers[text] for text in all_captions])
    same = rows[:, None] == columns[None, :]
    same[torch.arange(len(rows)), torch.arange(len(rows))] = False
    return torch.zeros(same.shape).masked_fill(same, -1e4)
