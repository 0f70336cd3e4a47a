"""Images are sent to the content-safety service in sizes that it takes, with their colours."""

import cv2
import numpy as np
import pytest

from worker.imaging.jpeg_for_content_safety import jpeg_for_content_safety


@pytest.mark.parametrize(
    ("size", "sent"),
    [
        ((1024, 1024), (1024, 1024)),
        ((96, 160), (96, 160)),
        ((3000, 1500), (1024, 512)),
        ((8, 8), (64, 64)),
        ((4000, 40), (1024, 64)),
    ],
)
def test_an_image_of_any_size(size: tuple[int, int], sent: tuple[int, int]) -> None:
    red = np.zeros((*size, 3), np.uint8)
    red[..., 0] = 200
    found = cv2.imdecode(np.frombuffer(jpeg_for_content_safety(red), np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    assert found.shape[:2] == sent
    assert found[..., 2].mean() > 190
    assert found[..., 0].mean() < 20
