"""Mutations of valid files: flipped, cut, inserted, doubled and swapped bytes."""

from pathlib import Path

from hypothesis import strategies as st

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - thousands of files, a millisecond each on a disk

_ODD = st.sampled_from(
    [
        b"\0",
        b"\xff",
        b"\xed\xa0\x80",
        b'"',
        b"\\",
        b"[",
        b"{",
        b"\n",
        b"\r",
        b"9" * 30,
        b"-",
        b"1e999",
        b"NaN",
        b"\\ud800",
    ]
)


@st.composite
def mutants(draw: st.DrawFn, valid: bytes) -> bytes:
    """`valid` after one to four mutations."""
    body = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        end = draw(st.integers(at, min(len(body), at + 40)))
        match draw(st.sampled_from(["flip", "cut", "insert", "double", "drop", "move"])):
            case "flip" if at < len(body):
                body[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del body[at:]
            case "insert":
                body[at:at] = draw(_ODD | st.binary(max_size=8))
            case "double":
                body[at:at] = body[at:end]
            case "drop":
                del body[at:end]
            case _:
                piece = body[at:end]
                del body[at:end]
                to = draw(st.integers(0, len(body)))
                body[to:to] = piece
    return bytes(body)
