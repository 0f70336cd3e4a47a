"""A worker starts quickly: its parent imports nothing that only the children need."""

import os
import subprocess
import sys

import pytest

from tests.paths import ROOT
from worker import tasks


def test_the_parent_imports_no_library_for_pictures() -> None:
    heavy = ("numpy", "cv2", "PIL", "pyarrow", "torch")
    code = f"import sys, worker.__main__, worker.tasks; print([n for n in {heavy} if n in sys.modules])"
    plain = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH"
    }  # no stubs of other tests
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_workers_with_a_gpu_each_differ_by_which_they_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """As systemd's units start them: all are the first process of a service, and take the only device."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert tasks.place_of("auto", 0) == "auto:0 [2]"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert tasks.place_of("cpu", 1) == "cpu:1"
