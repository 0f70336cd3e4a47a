"""A worker starts quickly: its parent imports nothing that only the children need."""

import os
import subprocess
import sys

from tests.paths import ROOT


def test_the_parent_imports_no_library_for_pictures() -> None:
    heavy = ("numpy", "cv2", "PIL", "pyarrow", "torch")
    code = f"import sys, worker.__main__, worker.tasks; print([n for n in {heavy} if n in sys.modules])"
    plain = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH"
    }  # no stubs of other tests
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
