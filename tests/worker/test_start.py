"""A worker starts quickly: its parent imports nothing that only the children need."""

import subprocess
import sys


def test_the_parent_imports_no_library_for_pictures() -> None:
    heavy = ("numpy", "cv2", "PIL", "pyarrow", "torch")
    code = f"import sys, worker.__main__, worker.tasks; print([n for n in {heavy} if n in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
