"""`python -m models.shapes.train`: trains every shapes model, about five hours on two cores, and writes checkpoints.

A stage that has finished is not trained again; remove its folder under the work folder to have it anew.
"""

import argparse
from pathlib import Path

import torch

from models.runtime.device import pick_device
from models.shapes.training import data_parallel
from models.shapes.training.export import export
from models.shapes.training.stages import PLANS, TrainingStages


def main() -> None:
    """Train the stages that are missing, then write the checkpoints."""
    parser = argparse.ArgumentParser(prog="python -m models.shapes.train", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("shapes-training"), help="logs and finished stages")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "weights", help="checkpoints")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument(
        "--processes", type=int, help="how many train; on a CPU one a core, four at most, else one"
    )
    parser.add_argument("--only", choices=list(PLANS), help="train this stage, and what it needs, and stop")
    parser.add_argument("--write", action="store_true", help="train nothing; write what has finished")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    device = pick_device(chosen.device).name
    if not chosen.write:
        cores = min(4, torch.get_num_threads()) if device == "cpu" else 1
        stages = [chosen.only] if chosen.only else list(PLANS)
        data_parallel.run(chosen.processes or cores, train, chosen.work, device, stages)
    if not chosen.only:
        print("written:", ", ".join(export(TrainingStages(chosen.work, torch.device(device)), chosen.to)))


def train(folder: Path, device: str, stages: list[str]) -> None:
    """Train these stages and those they need, unless they are finished."""
    trained = TrainingStages(folder, torch.device(device))
    for stage in stages:
        getattr(trained, stage.replace("-", "_"))


if __name__ == "__main__":
    main()
