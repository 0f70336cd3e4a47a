"""What killed workers leave in the temporary folder is removed, and nothing else."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from worker.liveness.runtime_folder import PREFIX, remove_stale, shared_folder

_HOLD = """
import sys
from worker.liveness.runtime_folder import shared_folder
with shared_folder() as folder:
    (folder / "4711").write_bytes(bytes(16))
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_a_killed_workers_folder_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        folder = Path(other.stdout.readline().strip())
        remove_stale(tmp_path)
        assert (folder / "4711").exists(), "its worker lives"
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert folder.exists()
        with shared_folder() as own:
            assert [path.name for path in tmp_path.iterdir()] == [own.name]
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    unlocked = tmp_path / f"{PREFIX}unlocked"
    unlocked.mkdir()
    diary = tmp_path / "diary"
    diary.mkdir()
    (diary / "lock").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(diary)
    used = tmp_path / f"{PREFIX}used"
    used.mkdir()
    for name in ("lock", "17", "notes.txt"):
        (used / name).touch()
    remove_stale(tmp_path)
    assert unlocked.is_dir()
    assert (diary / "lock").exists()
    assert [path.name for path in used.iterdir()] == ["notes.txt"]
