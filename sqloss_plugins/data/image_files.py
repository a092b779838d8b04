"""Files with the pixels of many images: MNIST's idx format and CIFAR-10's batches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def encoded(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Pixels as an image file without compression (PGM or PPM), the same whatever writes it.

    Args:
        pixels: (height, width) grey levels, or (height, width, 3) of red, green and blue; uint8.
    """
    height, width = pixels.shape[:2]
    return b"P%d %d %d 255\n" % (5 if pixels.ndim == 2 else 6, width, height) + pixels.tobytes()
