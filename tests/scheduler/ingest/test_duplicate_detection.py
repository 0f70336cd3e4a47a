"""Values that come again, in bounded memory."""

import subprocess
import sys

from scheduler.ingest.duplicate_detection import Repeats

_FILL = """
import resource
from scheduler.ingest.duplicate_detection import Repeats
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
repeats = Repeats(2_000_000)
for number in range(3_000_000):
    repeats.add(7, number)
assert repeats.found().number == 1_999_999
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024)
"""


def test_the_first_lines_and_the_number_of_what_came_again() -> None:
    repeats = Repeats()
    for line, value in enumerate("abcabcddd", 1):
        repeats.add(value, line)
    assert repeats.found() == (5, (4, 5, 6, 8, 9))
    assert Repeats().found() == (0, ())


def test_lines_beyond_the_end_of_a_number_are_the_last_one() -> None:
    repeats = Repeats()
    for line in (1, 2**33):
        repeats.add("a", line)
    assert repeats.found() == (1, (2**32 - 1,))


def test_all_values_repeated_take_no_more_memory() -> None:
    done = subprocess.run([sys.executable, "-c", _FILL], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 80
