"""Processes that begin at once, however long the path of the temporary folder is."""

import os
import tempfile
from pathlib import Path

import pytest

from bench.harness.process_pool import together, wait_for_all


def meet(_: int) -> int:
    wait_for_all()
    return os.getpid()


def test_processes_wait_for_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with together(2) as pool:
        assert len(set(pool.map(meet, range(2), chunksize=1))) == 2
