import os
from pathlib import Path

import pytest

from console.terminal.write_file_atomically import complete_file
from jobs.errors import UsageError


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    out = tmp_path / "rows"
    out.write_text("the former")
    with complete_file(out) as file:
        file.write(b"the new")
        assert out.read_text() == "the former"
    assert out.read_text() == "the new"
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]


@pytest.mark.parametrize("name", ["folder", "pipe", "missing/rows"])
def test_what_is_no_file_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(UsageError, match="must be a file in a folder that exists"),
        complete_file(tmp_path / name),
    ):
        pass
    assert (tmp_path / "pipe").is_fifo()
