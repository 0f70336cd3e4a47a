"""Any bytes for every reader of models' files: what comes out are results and our own errors, nothing else."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from models.catalogue.read_card import read_card
from models.errors import ModelError
from models.store.lockfile import LOCK_FILE, read_lock
from models.store.validate_safetensors import check_lora, check_weights
from models.store.vetting import read_config, vetted_files
from tests.fuzz import IN_MEMORY, mutants
from tests.paths import ROOT

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]  # two thousand inputs each
PACKAGE_CARDS = ROOT / "models" / "cards"
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "safety_checker": [None, None],
    "requires_safety_checker": True,
}
LOCK = {
    "version": 1,
    "models": {"a": {"source": "local", "revision": "x", "files": {"f": {"size": 1, "sha256": "0"}}}},
}
LORA = save(
    {"unet.a.lora_A.weight": np.ones((2, 4), np.float32), "unet.a.lora_B.weight": np.ones((4, 2), np.float16)}
)


def _fuzz(name: str, valid: bytes, read: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        path = Path(folder) / name

        @seed(20_261_128)
        @settings(max_examples=2_000, deadline=None, database=None)
        @given(mutants(valid) | st.binary(max_size=300))
        def run(body: bytes) -> None:
            path.write_bytes(body)
            try:
                read(path)
            except ModelError as error:
                assert len(str(error)) < 2_000  # noqa: PT017 - many are errors, and some are none

        path.write_bytes(valid)
        read(path)
        run()


def test_cards() -> None:
    _fuzz("own.toml", (PACKAGE_CARDS / "sd-2-1.toml").read_bytes(), read_card)


def test_model_indexes() -> None:
    _fuzz("model_index.json", json.dumps(INDEX).encode(), _vet)


def _vet(path: Path) -> None:
    if not (weights := path.parent / "w.safetensors").exists():
        weights.write_bytes(LORA)
    vetted_files(path.parent)


def test_configs() -> None:
    _fuzz("config.json", b'{"in_channels": 4, "sizes": [1, 2.5, null], "name": "f\\u00fc"}', read_config)


def test_locks() -> None:
    _fuzz(LOCK_FILE, json.dumps(LOCK).encode(), lambda path: read_lock(path.parent))


def test_weights() -> None:
    _fuzz("own.safetensors", LORA, lambda path: check_lora(path, check_weights(path)))
