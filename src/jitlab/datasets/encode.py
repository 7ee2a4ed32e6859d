"""Centre crops as bytes, without loss."""

import io
from typing import Literal

from PIL import Image

CropFormat = Literal["webp", "raw"]


def encode_crop(image: Image.Image, format: CropFormat) -> tuple[bytes, str]:
    """Return an RGB crop as bytes from which `decode` restores every pixel, and the extension of their format.

    Args:
        image: RGB.
        format: `webp` is lossless WebP, about half of the pixels' bytes; `raw` is binary PPM, all of them, and
            decoded twenty times as fast.
    """
    if format == "raw":
        return b"P6\n%d %d\n255\n" % image.size + image.tobytes(), "ppm"
    encoded = io.BytesIO()
    # The slower methods take 4 to 15 times as long for 6 to 12 % fewer bytes, and are decoded no faster.
    image.save(encoded, "WEBP", lossless=True, method=0)
    return encoded.getvalue(), "webp"
