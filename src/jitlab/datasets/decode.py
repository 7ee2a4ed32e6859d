"""From an encoded image to its centre crop: bit by bit as published results were made, or more than twice as fast."""

import io
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from jitlab.datasets.crop import NARROW, center_crop

Decoder = Literal["fast", "exact"]

JPEG_START = b"\xff\xd8"
PPM_HEADER = re.compile(rb"P6\s+(\d{1,9})\s+(\d{1,9})\s+255\s")
CONVERTED_ALIKE = ("YCbCr", "Gray", "RGB")  # simplejpeg's words; CMYK it leaves to the caller


class DamagedImageError(ValueError):
    """Bytes that make no whole image."""


def decode(encoded: bytes, size: int, decoder: Decoder) -> Tensor:
    """Return ADM's centre crop of an encoded image in RGB, (3, size, size) uint8, contiguous.

    Any format that Pillow reads will do. Transparency and EXIF orientation are ignored, as ADM and torchvision's
    ImageFolder do; of 16-bit grey the upper 8 bits count. An image of `size` x `size` comes back as it is stored.

    Args:
        encoded: the file's bytes.
        size: pixels.
        decoder: `exact` decodes and crops with Pillow, to the bit. `fast` takes simplejpeg and torch's antialiased
            resize for JPEGs: at most 2 grey levels from `exact`, about 0.003 on average over photographs. Whatever it
            cannot take (other formats, CMYK, a JPEG with a fault that Pillow tolerates) is decoded exactly.

    Raises:
        DamagedImageError: a ValueError, where the bytes are truncated, damaged or no image.
    """
    stored = _stored_pixels(encoded, size)
    if stored is not None:
        return _planes(stored)
    if decoder == "fast" and encoded.startswith(JPEG_START):
        pixels = _jpeg_pixels(encoded)
        if pixels is not None:
            return _fast_crop(pixels, size)
    return _planes(np.asarray(exact_crop(encoded, size)))


def exact_crop(encoded: bytes, size: int) -> Image.Image:
    """Return what `decode` returns from `exact`, as an RGB image; raises what it raises."""
    return center_crop(rgb_image(encoded), size)


def rgb_image(encoded: bytes) -> Image.Image:
    """Decode an image of any format whole, as RGB; raises DamagedImageError."""
    try:
        image = Image.open(io.BytesIO(encoded))
        image.load()
        return _rgb(image)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise DamagedImageError("no image in a format that Pillow reads") from error
    except Exception as error:  # its plugins raise almost anything on bytes that they do not expect
        raise DamagedImageError(f"{type(error).__name__}: {error}") from error


def _stored_pixels(encoded: bytes, size: int) -> np.ndarray | None:
    # Pillow would take three times as long over a binary PPM, and is left those of another kind, size or length.
    header = PPM_HEADER.match(encoded)
    if not header or header.groups() != (b"%d" % size, b"%d" % size):
        return None
    if len(encoded) - header.end() < 3 * size * size:
        return None
    return np.frombuffer(encoded, np.uint8, 3 * size * size, header.end()).reshape(size, size, 3)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers, of which none is known to be white")
    if image.mode.startswith("I"):  # convert() would make white of all but the darkest 255
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, but without Pillow's warning
    return image.convert("RGB")


def _jpeg_pixels(encoded: bytes) -> np.ndarray | None:
    """Return (H, W, 3) as Pillow would decode it, or None where it is for Pillow to decide."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(encoded)
        if colorspace not in CONVERTED_ALIKE or width * height > _most_pixels():
            return None
        pixels: np.ndarray = simplejpeg.decode_jpeg(encoded)
    except ValueError:  # libjpeg's mere warnings, too
        return None
    return pixels


def _most_pixels() -> float:
    return float("inf") if Image.MAX_IMAGE_PIXELS is None else Image.MAX_IMAGE_PIXELS


def _fast_crop(pixels: np.ndarray, size: int) -> Tensor:
    # (1, 3, H, W), channels last in memory: torch's uint8 kernels are made for that.
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    while min(image.shape[2:]) >= 2 * size and _alike(image.shape[2:], size):
        image = _halved(image)
    if not _alike(image.shape[2:], size):
        return _planes(np.asarray(center_crop(_pillow(image), size)))
    scale = size / min(image.shape[2:])
    height, width = (round(side * scale) for side in image.shape[2:])
    if image.shape[2:] != (height, width):
        image = F.interpolate(image, (height, width), mode="bicubic", antialias=True)
    left, top = (width - size) // 2, (height - size) // 2
    return image[0, :, top : top + size, left : left + size].contiguous()


def _alike(sides: Sequence[int], size: int) -> bool:
    """Say whether torch resizes an image of (H, W) as Pillow does, across before down, rounding between.

    Pillow shrinks a tall image the other way round; torch takes planes for pixels along a side of 1, or fails.
    """
    height, width = sides
    return height <= 2 * width and width <= NARROW * height and min(height, width, size) > 1


def _halved(image: Tensor) -> Tensor:
    """Return what Pillow's BOX filter makes of an image that is `_alike`, to the bit."""
    height, width = image.shape[2] // 2, image.shape[3] // 2
    if image.shape[2:] == (2 * height, 2 * width):
        # Exactly between two pixels each way, bilinear is their mean, rounded as Pillow rounds: six times as fast.
        return F.interpolate(image, (height, width), mode="bilinear")
    pixels = _pillow(image).resize((width, height), Image.Resampling.BOX)
    return torch.from_numpy(np.array(pixels))[None].permute(0, 3, 1, 2)


def _pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image[0].permute(1, 2, 0).numpy())


def _planes(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))
