"""Packages that only some uses of nightmill need, and the extra of nightmill that installs them."""

from importlib.util import find_spec

from models.errors import MissingPackagesError

EXTRAS: dict[str, tuple[str, ...]] = {
    "worker": (
        *(
            "accelerate",
            "c2pa",
            "cryptography",
            "cv2",
            "diffusers",
            "httpx2",
            "huggingface_hub",
            "isal",
            "peft",
        ),
        *("safetensors", "torch", "transformers"),
    ),
    "packed": ("bitsandbytes",),
    "plots": ("matplotlib",),
    "iceberg": ("pyiceberg",),
    "lance": ("lance",),
    "pkcs11": ("pkcs11",),
    "timestamps": ("asn1crypto", "cryptography"),
    "otel": ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http"),
}
"""For each extra, the names by which its packages are imported."""

_NEEDED = {
    "worker": "the worker's packages",
    "packed": "bitsandbytes",
    "plots": "matplotlib",
    "iceberg": "pyiceberg",
    "lance": "Lance",
    "pkcs11": "python-pkcs11",
    "timestamps": "packages for time stamps",
    "otel": "OpenTelemetry's SDK",
}


def is_installed(extra: str) -> bool:
    """Whether all packages of the extra are installed; imports none of them."""
    return all(map(_is_there, EXTRAS[extra]))


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of the package that would hold it
        return False


def require(extra: str, need: str = "this needs", instead: str = "") -> None:
    """Raise MissingPackagesError, which says what to install, unless the packages of the extra are there.

    `need` begins the message: "weights 'int8' need"; `instead` ends it with what can be done without them.
    """
    if not is_installed(extra):
        raise MissingPackagesError(f"{_message(extra, need)}{instead and f'; {instead}'}")


def missing_extra(error: ModuleNotFoundError) -> MissingPackagesError | None:
    """Return the error to report for an import that failed because an extra isn't installed, else None."""
    return next(
        (MissingPackagesError(_message(extra)) for extra, names in EXTRAS.items() if error.name in names),
        None,
    )


def _message(extra: str, need: str = "this needs") -> str:
    return f"{need} {_NEEDED[extra]}: pip install 'nightmill[{extra}]'"
