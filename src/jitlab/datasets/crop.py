"""The centre crop of ADM, which every published ImageNet figure rests on."""

from PIL import Image

# Times as long as wide: beyond it, enlarging the whole of an image would fill the memory (1 x 3000 at 256: 800 MB).
NARROW = 32


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Return the centre `size` x `size` pixels of an image that is first scaled to fit.

    The image is halved (box filter) while its short side is at least twice `size`, then resized (bicubic,
    antialiased) to a short side of `size`, as ADM and the official implementation do. Of an image that is more than
    `NARROW` times as long as wide, only what is kept is resized: there a pixel may be a grey level off theirs.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    left, top = (width - size) // 2, (height - size) // 2
    if max(image.size) > NARROW * min(image.size):
        return _resize_part(image, (width, height), (left, top, left + size, top + size))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return image.crop((left, top, left + size, top + size))


def _resize_part(image: Image.Image, whole: tuple[int, int], part: tuple[int, int, int, int]) -> Image.Image:
    """Return a part of the image as it would be if all of it were resized to `whole`."""
    left, top, right, bottom = part
    across, down = image.width / whole[0], image.height / whole[1]
    columns, rows = (left * across, right * across), (top * down, bottom * down)
    if whole[0] > image.width:
        # Pillow enlarges across before down and rounds between; a part of a tall image it would take the other way.
        all_rows = (columns[0], 0, columns[1], image.height)
        image = image.resize((right - left, image.height), Image.Resampling.BICUBIC, box=all_rows)
        columns = (0, image.width)
    box = (columns[0], rows[0], columns[1], rows[1])
    return image.resize((right - left, bottom - top), Image.Resampling.BICUBIC, box=box)
