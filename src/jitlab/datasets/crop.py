"""The centre crop of ADM, which every published ImageNet figure rests on."""

from PIL import Image


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Return the centre `size` x `size` pixels of an image that is first scaled to fit.

    The image is halved (box filter) while its short side is at least twice `size`, then resized (bicubic,
    antialiased) to a short side of `size`, as ADM and the official implementation do.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
