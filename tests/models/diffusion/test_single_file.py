"""A model as one .safetensors file in the original format, and as a folder of the user's."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.catalogue.catalogue import Catalogue
from models.diffusion.loader import load_pipeline
from models.diffusion.requests import ImageRequest
from models.diffusion.token_counter import TokenCounter
from models.errors import CheckpointError
from models.families.stable_diffusion import StableDiffusion
from models.runtime.device import Device
from models.store.add import add_model
from models.store.resolve_checkpoint import Checkpoint, resolve
from tests.models import checkpoints
from tests.models.original import write_single_file


@pytest.fixture
def file(tmp_path: Path, tiny_checkpoint: Checkpoint) -> Path:
    write_single_file(tiny_checkpoint.path, tmp_path / "dog.safetensors")
    return tmp_path / "dog.safetensors"


def _add(path: Path, models_dir: Path) -> Checkpoint:
    add_model(path, id="dog", base="tiny", is_lora=False, catalogue=Catalogue.load(models_dir))
    return resolve(Catalogue.load(models_dir).get("dog"), models_dir)


@pytest.mark.parametrize("is_version_2", [False, True])
def test_a_single_file_draws_the_pixels_of_the_folder_that_it_was_made_from(
    *,
    tmp_path: Path,
    tiny_checkpoint: Checkpoint,
    is_version_2: bool,
    tiny: StableDiffusion,
    device: Device,
    image: Callable[..., ImageRequest],
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "dog.safetensors"
    write_single_file(tiny_checkpoint.path, file, is_version_2=is_version_2)
    checkpoint = _add(file, tmp_path)
    assert (checkpoint.path, checkpoint.revision) == (file, "local")
    [picture] = StableDiffusion.load(checkpoint, device).render([image()], rows=1)
    assert np.array_equal(picture.pixels, tiny.render([image()], rows=1)[0].pixels)
    assert TokenCounter.load(checkpoint).count(["a red bird"]) == [5]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("system", ["v1", "v2", "v1-inpainting", "v2-inpainting"])
def test_a_single_file_of_every_system_is_read_whole(tmp_path: Path, device: Device, system: str) -> None:
    folder = checkpoints.checkpoint(system, tmp_path)
    file = tmp_path / "one.safetensors"
    write_single_file(folder.path, file, is_version_2=system.startswith("v2"))
    single = replace(folder, path=file, base=folder.path)
    one = load_pipeline(single, device, "StableDiffusionPipeline")
    other = load_pipeline(folder, device, "StableDiffusionPipeline")
    for part in ("unet", "vae", "text_encoder"):
        expected = getattr(other, part).state_dict()
        found = getattr(one, part).state_dict()
        assert found.keys() == expected.keys()
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert one.scheduler.config.prediction_type == other.scheduler.config.prediction_type


def test_other_weights_draw_other_pixels(
    *, tmp_path: Path, file: Path, tiny: StableDiffusion, device: Device, image: Callable[..., ImageRequest]
) -> None:
    weights = load_file(file)
    weights["model.diffusion_model.out.2.bias"] += 0.5
    save_file(weights, file, metadata={"format": "pt"})
    [picture] = StableDiffusion.load(_add(file, tmp_path), device).render([image()], rows=1)
    assert not np.array_equal(picture.pixels, tiny.render([image()], rows=1)[0].pixels)


def test_a_fine_tuned_folder_draws_its_own_pixels_where_it_lies(
    *,
    tmp_path: Path,
    tiny_checkpoint: Checkpoint,
    tiny: StableDiffusion,
    device: Device,
    image: Callable[..., ImageRequest],
) -> None:
    folder = tmp_path / "elsewhere" / "dog"
    shutil.copytree(tiny_checkpoint.path, folder)
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(unet)
    weights["conv_out.bias"] += 0.5
    save_file(weights, unet, metadata={"format": "pt"})
    checkpoint = _add(folder, tmp_path / "models")
    [picture] = StableDiffusion.load(checkpoint, device).render([image()], rows=1)
    assert not np.array_equal(picture.pixels, tiny.render([image()], rows=1)[0].pixels)
    assert list(folder.parent.iterdir()) == [folder], "nothing is written beside what is the user's"


def test_a_changed_single_file_is_refused(tmp_path: Path, file: Path) -> None:
    _add(file, tmp_path)
    weights = load_file(file)
    weights["model.diffusion_model.out.2.bias"] += 1
    save_file(weights, file)
    with pytest.raises(
        CheckpointError, match=r"dog.safetensors: has the SHA-256 [0-9a-f]{64}, but nightmill.lock"
    ):
        resolve(Catalogue.load(tmp_path).get("dog"), tmp_path)


@pytest.mark.parametrize("name", ["dog.ckpt", "dog.bin", "dog.zip"])
def test_refuses_other_single_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"pickled weights|is no .safetensors file"):
        _add(tmp_path / name, tmp_path)


def test_refuses_damaged_and_foreign_files(tmp_path: Path, file: Path, device: Device) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    with pytest.raises(CheckpointError, match="can't be read as safetensors"):
        _add(file, tmp_path)
    file.write_bytes(content)
    for part in ("diffusion_model", "first_stage_model", "cond_stage_model"):
        weights = {key: value for key, value in load_file(file).items() if part not in key}
        save_file(weights, tmp_path / f"{part}.safetensors")
    for number, part in enumerate(("diffusion_model", "first_stage_model", "cond_stage_model")):
        checkpoint = _add(tmp_path / f"{part}.safetensors", tmp_path / str(number))
        with pytest.raises(CheckpointError, match=rf"holds no .* in the original format .*{part}"):
            StableDiffusion.load(checkpoint, device)


def test_says_that_a_single_file_lacks_weights(tmp_path: Path, file: Path, device: Device) -> None:
    weights = load_file(file)
    del weights["model.diffusion_model.out.2.weight"]
    save_file(weights, file)
    with pytest.raises(CheckpointError, match="lacks weights that its base has"):
        StableDiffusion.load(_add(file, tmp_path), device)
