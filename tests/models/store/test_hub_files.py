"""Which files of the repositories, as they are published, a model is made of."""

import pytest

from models.catalogue.catalogue import Catalogue
from models.errors import CheckpointError
from models.store.hub_files import wanted_files

_TOKENIZER = ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")
_UNET = "unet/diffusion_pytorch_model"
_CONFIGS = [
    "model_index.json",
    "feature_extractor/preprocessor_config.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    *(f"tokenizer/{name}" for name in _TOKENIZER),
    "unet/config.json",
    "vae/config.json",
]
_V15 = [
    *_CONFIGS,
    ".gitattributes",
    "README.md",
    "safety_checker/config.json",
    *(
        f"{_UNET}{end}"
        for end in (".bin", ".fp16.bin", ".fp16.safetensors", ".non_ema.bin", ".non_ema.safetensors")
    ),
    *(
        f"{stem}{end}"
        for stem in ("safety_checker/model", "text_encoder/model", _UNET, "vae/diffusion_pytorch_model")
        for end in (".safetensors", ".fp16.safetensors")
    ),
    *(f"{part}/pytorch_model.bin" for part in ("safety_checker", "text_encoder")),
    "vae/diffusion_pytorch_model.bin",
    "v1-5-pruned-emaonly.ckpt",
    "v1-5-pruned-emaonly.safetensors",
    "v1-5-pruned.safetensors",
    "v1-inference.yaml",
]


def test_of_a_pipeline_its_components_once_and_no_safety_checker(catalogue: Catalogue) -> None:
    taken = wanted_files(catalogue.get("sd15"), "lab/v1-5", _V15)
    weights = ["text_encoder/model", _UNET, "vae/diffusion_pytorch_model"]
    assert sorted(taken) == sorted([*_CONFIGS, *(f"{stem}.safetensors" for stem in weights)])
    assert all(name == local for name, local in taken.items())


def test_of_the_safety_checker_two_folders_laid_together(catalogue: Catalogue) -> None:
    assert wanted_files(catalogue.get("sd-safety-checker"), "lab/v1-5", _V15) == {
        "feature_extractor/preprocessor_config.json": "preprocessor_config.json",
        "safety_checker/config.json": "config.json",
        "safety_checker/model.safetensors": "model.safetensors",
    }


def test_of_the_small_decoder_its_whole_and_not_its_halves(catalogue: Catalogue) -> None:
    names = ["README.md", "config.json", "diffusion_pytorch_model.safetensors", "taesd_decoder.safetensors"]
    taken = wanted_files(catalogue.get("taesd"), "lab/taesd", [*names, "taesd_encoder.safetensors"])
    assert sorted(taken) == names[1:3]


def test_of_the_v1_inpainting_model_the_only_safe_variant_under_plain_names(catalogue: Catalogue) -> None:
    names = [name for name in _V15 if name.endswith((".json", ".txt", ".bin", ".fp16.safetensors"))]
    taken = wanted_files(catalogue.get("sd-v1-5-inpainting"), "lab/inpainting", names)
    assert taken[f"{_UNET}.fp16.safetensors"] == f"{_UNET}.safetensors"
    assert sum(name.endswith(".safetensors") for name in taken) == 3
    with pytest.raises(CheckpointError, match="pickled weights only in text_encoder, unet, vae"):
        wanted_files(catalogue.get("sd15"), "lab/inpainting", names)


def test_of_an_upscaler_and_a_depth_model_their_own_components(catalogue: Catalogue) -> None:
    more = ["low_res_scheduler/scheduler_config.json", "x4-upscaler-ema.safetensors"]
    assert more[0] in wanted_files(catalogue.get("x4-upscaler"), "lab/x4", [*_V15, *more])
    depth = ["depth_estimator/config.json", "depth_estimator/model.safetensors"]
    assert set(depth) <= wanted_files(catalogue.get("sd-2-depth"), "lab/depth", [*_V15, *depth]).keys()
    with pytest.raises(CheckpointError, match="pickled weights only in depth_estimator"):
        wanted_files(
            catalogue.get("sd-2-depth"), "lab/d", [*_V15, depth[0], "depth_estimator/pytorch_model.bin"]
        )


def test_of_clip_what_lies_at_the_top(catalogue: Catalogue) -> None:
    tops = ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", *_TOKENIZER]
    others = [".gitattributes", "README.md", "flax_model.msgpack", "pytorch_model.bin", "tf_model.h5"]
    assert sorted(wanted_files(catalogue.get("clip-vit-l-14"), "lab/clip", [*tops, *others])) == sorted(tops)


def test_nothing_without_weights(catalogue: Catalogue) -> None:
    with pytest.raises(CheckpointError, match="lab/empty holds no weights as safetensors for sd-v1-4"):
        wanted_files(catalogue.get("sd14"), "lab/empty", _CONFIGS)
