"""An LRU cache of a lane's input images, decoded once each and scaled to the lane's size."""

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.images.decode_picture import flattened
from jobs.job_dataclasses import Job
from jobs.settings import Settings
from jobs.storage.open import S3Options
from models.provenance.parent_file import ParentFile
from worker.imaging.input_provenance import Findings, InputExaminer, parent_file
from worker.imaging.read_input import (
    InputImageAccessLostError,
    InputImageDeniedError,
    InputImageError,
    decode_image,
    floats_of,
    heights,
    pixels_of,
    read_bytes,
)
from worker.item import InputFiles, Inputs

KEPT = 24
TOLERANCE = 0.01

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    """An input image at the requested size; `size` is its original one, width first; `findings` tell of its origin."""

    values: NDArray[np.generic]
    size: Size
    sha256: str
    file: ParentFile | None
    findings: Findings


@dataclass(frozen=True)
class _Role:
    """How an image column is read and scaled."""

    column: str
    prepare: Callable[[Image.Image], Image.Image]
    resample: Image.Resampling
    values: Callable[[Image.Image], NDArray[np.generic]]


def _grey(image: Image.Image) -> Image.Image:
    return flattened(image).convert("L")


_INIT = _Role("init_image", flattened, Image.Resampling.LANCZOS, pixels_of)
_MASK = _Role("mask_image", _grey, Image.Resampling.NEAREST, pixels_of)
_DEPTH = _Role("depth_image", heights, Image.Resampling.BILINEAR, floats_of)


class InputImageCache:
    """Caches the input images used last, so that a row with many images opens its inputs once."""

    def __init__(self, settings: Settings, *, keeps_files: bool = False) -> None:
        """`keeps_files`: whether the files that images are made from are kept, to be ingredients of manifests."""
        self._keeps_files, self._settings = keeps_files, settings
        self._roots = settings.image_roots
        self._s3 = S3Options(endpoint_url=settings.s3_endpoint_url, region=settings.s3_region)
        self._read_last: dict[str, str] = {}
        """By bucket, what could be read of it last."""
        self._kept: OrderedDict[object, _Fitted] = OrderedDict()

    def inputs(self, job: Job, size: Size | None) -> Inputs:
        """Return the job's input images at (width, height), or at their own size if `size` is None.

        Raises InputImageError for one that can't be used, ObjectStoreError when S3 can't be reached.
        """
        init = self._fitted(_INIT, job.init_image, size)
        mask = self._fitted(_MASK, job.mask_image, size)
        depth = self._fitted(_DEPTH, job.depth_image, size)
        for column, other in (("mask_image", mask), ("depth_image", depth)):
            if init and other:
                _check_alike(column, other.size, init.size)
        return Inputs(
            image=init and init.values,  # type: ignore[arg-type]
            mask=mask and mask.values,  # type: ignore[arg-type]
            depth=depth and depth.values,  # type: ignore[arg-type]
            files=InputFiles(*(each.sha256 if each else None for each in (init, mask, depth))),
            parent=init.file if init else None,
            findings=init.findings if init else {},
        )

    def _fitted(self, role: _Role, location: str | None, size: Size | None) -> _Fitted | None:
        if location is None:
            return None
        key = role.column, location, _stamp(location), size
        if key not in self._kept:
            try:
                self._kept[key] = self._open(role, location, size)
            except InputImageError as error:
                raise type(error)(f"{role.column}: {error}") from None
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _open(self, role: _Role, location: str, size: Size | None) -> _Fitted:
        body = self._read(location)
        image = role.prepare(decode_image(body, location))
        values = role.values(fit(image, size, role.resample) if size else image)
        is_parent = role is _INIT
        return _Fitted(
            values,
            image.size,
            sha256(body).hexdigest(),
            file=parent_file(body) if is_parent and self._keeps_files else None,
            findings=self._examiner.examine(body, image) if is_parent else {},
        )

    @cached_property
    def _examiner(self) -> InputExaminer:
        return InputExaminer(self._settings)

    def _read(self, location: str) -> bytes:
        """Read a file or object. Some stores answer "access denied" to keys that were taken away, hence the check."""
        bucket = location.split("/", 3)[2] if location.startswith("s3://") else None
        try:
            body = read_bytes(location, self._roots, self._s3)
        except InputImageDeniedError as error:
            if bucket in self._read_last and not self._can_read(self._read_last[bucket]):
                raise InputImageAccessLostError(str(error)) from None
            raise
        if bucket is not None:
            self._read_last[bucket] = location
        return body

    def _can_read(self, location: str) -> bool:
        try:
            read_bytes(location, self._roots, self._s3)
        except InputImageDeniedError:
            return False
        except InputImageError:
            pass  # it is gone, which says nothing of the key
        return True


def fit(image: Image.Image, size: Size, resample: Image.Resampling) -> Image.Image:
    """Scale an image to cover (width, height) and crop the excess equally on both sides."""
    if image.size == size:
        return image
    scale = min(image.width / size[0], image.height / size[1])
    width, height = min(size[0] * scale, image.width), min(size[1] * scale, image.height)
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return image.resize(size, resample, box=(left, top, left + width, top + height))


def _check_alike(column: str, other: Size, init: Size) -> None:
    """Raise InputImageError if two inputs differ in proportions: cropped differently, they would not align."""
    across, down = other[0] * init[1], other[1] * init[0]
    if abs(across - down) > max(TOLERANCE * max(across, down), *other, *init):
        raise InputImageError(
            f"{column} has {other[0]}x{other[1]} pixels and init_image {init[0]}x{init[1]}: "
            "give both the same proportions"
        )


def _stamp(location: str) -> tuple[int, int] | None:
    """Return a local file's modification time and size, which change when it is replaced; None where there is none."""
    try:
        status = os.stat(location)  # noqa: PTH116
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
