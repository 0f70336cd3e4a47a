"""Locks of the models folder: one holder at a time, and none that outlives its process."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from models.errors import ModelError
from models.runtime.file_lock import exclusive

_HOLD = """
import sys
from pathlib import Path
from models.runtime.file_lock import exclusive
with exclusive(Path(sys.argv[1]), ".a"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_waited_for_and_released_when_its_process_is_killed(tmp_path: Path) -> None:
    taken = threading.Event()

    def take() -> None:
        with exclusive(tmp_path, ".a"):
            taken.set()

    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        waiter = threading.Thread(target=take)
        waiter.start()
        with exclusive(tmp_path, ".b"):
            assert not taken.wait(0.3)
        holder.send_signal(signal.SIGKILL)
        assert taken.wait(150)
        waiter.join()


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    diary.write_text("kept")
    (tmp_path / ".a").symlink_to(diary)
    with pytest.raises(ModelError, match="can't write to the models folder"), exclusive(tmp_path, ".a"):
        pass
    assert diary.read_text() == "kept"
