"""Encode images for the content-safety service, in the sizes that it takes."""

from worker.item import Pixels

_LONGEST_SIDE, _SHORTEST_SIDE = 1024, 64  # it takes 50 to 2,048 pixels
_QUALITY = 90


def jpeg_for_content_safety(image: Pixels) -> bytes:
    """Return an (H, W, 3) uint8 RGB image as a JPEG of at most 1,024 pixels; sides below 64 go on as their edge."""
    import cv2  # noqa: PLC0415 - only workers whose batches use the service need it

    height, width = image.shape[:2]
    scale = min(1.0, _LONGEST_SIDE / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    height, width = image.shape[:2]
    below, right = max(0, _SHORTEST_SIDE - height), max(0, _SHORTEST_SIDE - width)
    padded = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REPLICATE)
    colours = cv2.cvtColor(padded, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", colours, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done
    return encoded.tobytes()
