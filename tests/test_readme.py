"""The README's commands do what it says; where pictures aren't looked at, stubs draw them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from jobs.settings import Settings
from tests.chaos.stub import stubbed
from tests.paths import ROOT
from tests.s3 import S3Server

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHAPES = {"NIGHTMILL_DEFAULT_MODEL": Settings.model_fields["default_model"].default}
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)


def run_block(block: str, folder: Path, environment: dict[str, str]) -> str:
    shutil.copytree(ROOT / "examples", folder / "examples", dirs_exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env=environment | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout


def block_with(words: str) -> str:
    return next(block for block in BLOCKS if words in block)


def test_a_first_batch(tmp_path: Path, shared_models: Path) -> None:
    environment = os.environ | {"NIGHTMILL_MODELS_DIR": str(shared_models)} | SHAPES
    printed = run_block(block_with("nightmill plan"), tmp_path, environment)
    assert "42 done, 3 blocked" in printed
    batch = tmp_path / "output" / "demo"
    assert len([path for path in batch.glob("images/*/*.png") if path.is_file()]) == 42
    assert (batch / "export" / "part-00000.parquet").is_file()
    assert (batch / "export" / "_SUCCESS").is_file()
    assert (batch / "contact-sheet.png").is_file()
    again = run_block("nightmill run examples/demo.jsonl --out output --json", tmp_path, environment)
    assert '"rendered": 0' in again


def test_a_sweep_and_its_evaluation(tmp_path: Path, settings: Settings) -> None:
    environment = settings.environment() | SHAPES
    printed = run_block(block_with("nightmill evaluate"), tmp_path, environment)
    assert "Trained at 64x64 pixels" in " ".join(printed.split())
    folder = tmp_path / "output" / "guidance-sweep"
    assert (folder / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert [point["value"] for point in found["points"]] == [1.5, 2, 3, 4, 5, 6, 7, 8]
    assert all(12 <= point["n"] <= 16 for point in found["points"])
    weak, *_, strong = (point["clip_score"] for point in found["points"])
    assert strong > weak
    assert strong > 50
    assert np.mean([point["prompt_match"] for point in found["points"] if point["value"] >= 4]) >= 0.8


def test_a_manifest_with_columns_of_its_own(tmp_path: Path, settings: Settings) -> None:
    with stubbed(tmp_path):
        printed = run_block(block_with("toys.tsv"), tmp_path, settings.environment())
    assert printed.replace(" ", "").count('"meta":{"Category":"toys"}') == 4
    assert (tmp_path / "toys-export" / "part-00000.jsonl").is_file()


def test_a_dataset(tmp_path: Path, settings: Settings) -> None:
    with stubbed(tmp_path):
        printed = run_block(block_with("signs.jsonl"), tmp_path, settings.environment())
    folder = Path(settings.output) / "signs" / "export-webdataset"
    listed = subprocess.run(["tar", "-tf", folder / "00000.tar"], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [
        f"00000{number:04d}.{kind}" for number in range(4) for kind in ("json", "png", "txt")
    ], "the images of c2 are gone"
    told = json.loads((folder / "_SUCCESS").read_text())
    assert (told["images"], told["counts"]["retracted"], told["shards"][0]["version"]) == (4, 2, 2)
    assert list((tmp_path / "signs-hf" / "data").glob("train-*.parquet"))
    assert (tmp_path / "signs-hf" / "README.md").is_file()
    assert "retracted" in printed


def test_servers_of_ones_own(tmp_path: Path, empty_database: str, settings: Settings, s3: S3Server) -> None:
    given = {
        "postgresql://user:password@host/nightmill": empty_database,
        "redis://host:6379/0": settings.broker,
        "s3://bucket/prefix": f"{s3.uri}/readme",
        "http://host:9000": s3.endpoint_url,
    }
    block = block_with("NIGHTMILL_DATABASE_URL")
    for shown, real in given.items():
        assert shown in block
        block = block.replace(shown, f"'{real}'")
    with stubbed(tmp_path):  # nothing that is drawn is flagged; the one that is blocked is for its prompt
        environment = os.environ | SHAPES | {"NIGHTMILL_QUEUE": settings.queue}
        printed = run_block(block, tmp_path, environment)
    assert "44 done, 1 blocked" in printed


def test_every_command_of_the_table_exists() -> None:
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`nightmill ([a-z]+)", README + page))
    helped = subprocess.run(
        [sys.executable, "-m", "console.cli", "--help"], capture_output=True, text=True, check=True
    ).stdout
    listed = set(re.findall(r"│ ([a-z]+) {2,}", helped))
    assert named == listed


def test_make_knows_the_targets() -> None:
    for target in re.findall(r"make ([a-z]+)", README):
        dry = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert dry.returncode == 0, dry.stderr


def test_every_setting_named_is_one() -> None:
    named = set(re.findall(r"NIGHTMILL_([A-Z0-9_]+)", README))
    assert named <= {name.upper() for name in Settings.model_fields}
