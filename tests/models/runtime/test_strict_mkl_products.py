"""MKL is asked for strictly reproducible products on the processors that need it, and nowhere else."""

import os
from pathlib import Path

import pytest

from models.runtime.batch_invariant_cpu import request_strict_products

INTEL, AMD = "GenuineIntel", "AuthenticAMD"


def cpuinfo(vendor: str, flags: str) -> str:
    return f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags} sse\npower management:\n\n" * 2


@pytest.mark.parametrize(
    ("vendor", "flags", "is_asked"),
    [
        (INTEL, "avx2", True),
        (INTEL, "avx2 avx512f", False),
        (INTEL, "avx", False),
        (AMD, "avx2", False),
    ],
)
def test_it_is_asked_where_a_row_would_round_by_its_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str, flags: str, is_asked: bool
) -> None:
    monkeypatch.setattr(os, "environ", {})
    (tmp_path / "cpuinfo").write_text(cpuinfo(vendor, flags))
    request_strict_products(tmp_path / "cpuinfo")
    assert os.environ == ({"MKL_CBWR": "AVX2,STRICT"} if is_asked else {})


def test_what_a_user_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"MKL_CBWR": "COMPATIBLE"})
    (tmp_path / "cpuinfo").write_text(cpuinfo(INTEL, "avx2"))
    request_strict_products(tmp_path / "cpuinfo")
    assert os.environ == {"MKL_CBWR": "COMPATIBLE"}


def test_without_a_description_of_the_processor_nothing_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {})
    request_strict_products(tmp_path / "none")
    assert os.environ == {}
