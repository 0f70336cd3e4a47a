"""The training of the shapes models: every stage runs, can be cut off, and gives checkpoints that load."""

import json
from pathlib import Path

import pytest
import torch

from models.assess.clip_score import ClipScorer
from models.assess.safety_checker import SafetyChecker
from models.catalogue.catalogue import Catalogue
from models.diffusion.requests import ImageRequest
from models.families.stable_diffusion import StableDiffusion
from models.families.upscaler import Upscaler, UpscaleRequest
from models.runtime.device import pick_device
from models.shapes.training import data_parallel, stages
from models.shapes.training.export import STAGES, export
from models.shapes.training.loop import Course, Plan, fit
from models.store.resolve_checkpoint import Checkpoint, resolve

pytestmark = pytest.mark.timeout(240)


CPU = pick_device("cpu")


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> stages.TrainingStages:
    """Where every stage takes two steps of two rows."""
    few = {name: Plan(steps=2, rows=2, rate=1e-3) for name in stages.PLANS}
    monkeypatch.setattr(stages, "PLANS", few)
    return stages.TrainingStages(tmp_path, torch.device("cpu"))


def test_every_stage_trains_and_what_is_written_draws(
    workshop: stages.TrainingStages, tmp_path: Path
) -> None:
    for stage in stages.PLANS:
        getattr(workshop, stage.replace("-", "_"))
        assert workshop.is_finished(stage)
    to = tmp_path / "checkpoints"
    assert set(export(workshop, to)) == set(STAGES)
    cards = Catalogue.load(tmp_path)

    def written(name: str) -> Checkpoint:
        return resolve(cards.get(name).model_copy(update={"path": str(to / name)}), tmp_path)

    request = ImageRequest(
        prompt="a red circle", width=64, height=64, steps=2, guidance_scale=5, sampler="ddim", seed=1
    )
    painter = StableDiffusion.load(written("shapes"), CPU)
    (drawn,) = painter.render([request], rows=1)
    enlarging = UpscaleRequest(
        pixels=drawn.pixels, prompt="", steps=2, guidance_scale=1, sampler="ddim", seed=1
    )
    (large,) = Upscaler.load(written("shapes-x4"), CPU).render([enlarging])
    assert large.pixels.shape == (256, 256, 3)
    assert SafetyChecker.load(written("shapes-safety"), CPU).score([drawn.pixels])
    assert ClipScorer.load(written("shapes-clip"), CPU).score([drawn.pixels], [request.prompt])
    for name, own in STAGES.items():
        card = (to / name / "README.md").read_text(encoding="utf-8")
        assert all(f"| {stage} | 2 | 2 | 0.001 |" in card for stage in own)
        assert not [path for path in (to / name).rglob("config.json") if str(tmp_path) in path.read_text()]


def test_a_stage_that_has_finished_is_not_trained_again(workshop: stages.TrainingStages) -> None:
    before = workshop.autoencoder.state_dict()
    again = stages.TrainingStages(workshop.folder, torch.device("cpu")).autoencoder.state_dict()
    assert all(torch.equal(before[name], again[name]) for name in before)


def test_a_training_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "line.jsonl"
    torch.manual_seed(1)
    line = torch.nn.Linear(2, 1)
    steps = []

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        if step == 620 and step not in steps:
            steps.append(step)
            raise KeyboardInterrupt
        steps.append(step)
        points = torch.randn(16, 2)
        return {"squared": (line(points) - points @ torch.tensor([[2.0], [-1.0]]) - 3).square().mean()}

    course = Course(Plan(steps=1000, rows=16, rate=3e-2, decay=0.9), torch.device("cpu"), 1, log)
    with pytest.raises(KeyboardInterrupt):
        fit(line, course, loss_of)
    torch.nn.init.zeros_(line.weight)
    trained = fit(line, course, loss_of)
    assert steps == [*range(621), *range(500, 1000)]
    assert trained.weight.tolist()[0] == pytest.approx([2, -1], abs=0.01)
    assert trained.bias.item() == pytest.approx(3, abs=0.01)
    lines = [json.loads(text) for text in log.read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in lines] == [*range(0, 620, 50), *range(500, 1000, 50), 999]
    assert [path.name for path in tmp_path.iterdir()] == [log.name]


def test_two_processes_take_the_steps_that_one_takes_with_all_rows(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        data_parallel.run(number, fit_a_line, tmp_path / str(number))
    alone, first, second = (
        torch.load(path, weights_only=True) for path in sorted(tmp_path.glob("*/*.weights"))
    )
    for name, weights in alone.items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], weights, atol=1e-6)
    logs = list(tmp_path.glob("*/line.jsonl"))
    assert [len(log.read_text(encoding="utf-8").splitlines()) for log in logs] == [2, 2]


def fit_a_line(folder: Path) -> None:
    """Eight rows a step in all, of which this process has its own."""
    own = 0 if data_parallel.is_first() else 1
    torch.manual_seed(data_parallel.own_seed(1))
    line = torch.nn.Linear(2, 1)

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        points = torch.randn(8, 2, generator=torch.Generator().manual_seed(step))
        points = points.tensor_split(data_parallel.size())[own]
        return {"squared": (line(points) - points @ torch.tensor([[2.0], [-1.0]]) - 3).square().mean()}

    plan = Plan(steps=20, rows=8, rate=3e-2)
    fit(line, Course(plan, torch.device("cpu"), 1, folder / "line.jsonl"), loss_of)
    torch.save(line.state_dict(), folder / f"{own}.weights")
