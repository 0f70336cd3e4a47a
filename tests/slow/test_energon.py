"""Megatron-Energon opens an export as WebDataset, without preparing it."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.scheduler.export.datasets import SIZE, with_index, with_pictures

pytestmark = [pytest.mark.slow_tier]

VERSION = "7.4.1"
READ = """
import sys
from megatron.energon import WorkerConfig, get_loader, get_train_dataset

alone = WorkerConfig(rank=0, world_size=1, num_workers=0)
dataset = get_train_dataset(
    sys.argv[1], worker_config=alone, batch_size=None, shuffle_buffer_size=None, max_samples_per_sequence=None,
    repeat=False)
for sample in get_loader(dataset):
    print(sample.__key__, list(sample.image.shape), sample.caption)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own, with PyTorch from this one: Energon pins packages that nightmill has newer."""
    folder = tmp_path_factory.mktemp("energon") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "nightmill.pth").write_text(sysconfig.get_path("purelib"))
    install = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", f"megatron-energon=={VERSION}"]
    subprocess.run(install, check=True)
    return folder / "bin" / "python"


def test_energon_reads_every_sample(engine: Engine, tmp_path: Path, python: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", 25)
    with_index(engine, [batch], "webdataset", tmp_path / "export", 10)
    read = [python, "-W", "ignore", "-c", READ, tmp_path / "export"]
    told = subprocess.run(read, check=True, capture_output=True, text=True).stdout
    found = sorted(line for line in told.splitlines() if line.startswith("0000"))
    assert found == [
        f"{number // 10:05d}{number % 10:04d} [3, {SIZE}, {SIZE}] fox {number}" for number in range(25)
    ]
