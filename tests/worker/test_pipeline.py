"""The pipeline as documented, and with a stage added."""

import re
import subprocess
import sys

from tests.paths import ROOT
from worker.pipeline import PIPELINE, table

PAGE = ROOT / "docs" / "architecture.md"


def test_the_documentation_shows_the_pipeline_as_it_is_printed() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "worker.pipeline"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    shown = re.search(
        r"<!-- pipeline -->\n(.*)<!-- /pipeline -->", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    assert shown is not None
    assert shown[1] == printed == table()


def test_each_stage_has_a_file_of_its_own_that_is_called_like_it() -> None:
    files = {path.stem for path in (ROOT / "worker" / "stages").rglob("*.py")} - {"__init__"}
    assert {stage.name for stage in PIPELINE} == files - {"safety_check_base_classes"}
    assert all(stage.__module__.rpartition(".")[2] == stage.name for stage in PIPELINE)
