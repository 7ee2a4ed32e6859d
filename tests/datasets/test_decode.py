import io

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from jitlab.datasets import decode as module
from jitlab.datasets.crop import NARROW, center_crop
from jitlab.datasets.decode import DamagedImageError, Decoder, decode
from jitlab.datasets.encode import encode_crop
from tests.golden import vectors
from tests.photographs import photographs

DECODERS: tuple[Decoder, ...] = ("fast", "exact")
MOST_OFF, MOST_OFF_ON_AVERAGE = 2, 0.005
GOLDEN = dict(np.load(vectors.FOLDER / "adm_crop.npz"))
PHOTOGRAPHS = [encoded for _, _, encoded in photographs(40, seed=3)]
PHOTOGRAPH = Image.open(io.BytesIO(PHOTOGRAPHS[0])).convert("RGB")
few = settings(deadline=None, max_examples=40)


def encode(image, format, **options):
    encoded = io.BytesIO()
    image.save(encoded, format, **options)
    return encoded.getvalue()


def adm(image, size):
    """Return ADM's crop as (3, size, size)."""
    return torch.from_numpy(np.array(center_crop(image.convert("RGB"), size))).permute(2, 0, 1)


def opened(encoded):
    return Image.open(io.BytesIO(encoded))


def off(one, other):
    return (one.int() - other.int()).abs()


@pytest.fixture
def taken_by_simplejpeg(monkeypatch):
    """Return a list that gets True for every image that the fast decoder does not leave to Pillow."""
    taken, pixels = [], module._jpeg_pixels

    def watched(encoded):
        found = pixels(encoded)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(module, "_jpeg_pixels", watched)
    return taken


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("out/")])
def test_photographs_stored_without_loss_are_cropped_as_adm_does(name, decoder):
    _, photo, size = name.split("/")
    found = decode(encode(Image.fromarray(GOLDEN[f"in/{photo}"]), "PNG"), int(size), decoder)
    assert found.is_contiguous()
    assert np.array_equal(found.permute(1, 2, 0), GOLDEN[name])


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("out/")])
def test_the_fast_crop_of_the_golden_photographs_is_within_its_bound(name):
    _, photo, size = name.split("/")
    found = module._fast_crop(GOLDEN[f"in/{photo}"].copy(), int(size))
    difference = off(found.permute(1, 2, 0), torch.from_numpy(GOLDEN[name]))
    assert difference.max() <= MOST_OFF


@pytest.mark.parametrize("size", [32, 64, 256])
def test_the_decoders_agree_on_photographs(size, taken_by_simplejpeg):
    differences = [off(decode(photo, size, "fast"), decode(photo, size, "exact")) for photo in PHOTOGRAPHS]
    assert max(int(difference.max()) for difference in differences) <= MOST_OFF
    mean = float(torch.stack(differences).float().mean())
    assert 0 < mean <= MOST_OFF_ON_AVERAGE, "0: nothing was decoded by the fast decoder"
    assert taken_by_simplejpeg == [True] * len(PHOTOGRAPHS)


@given(
    st.integers(1, 160),
    st.integers(1, 160),
    st.integers(1, 64),
    st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    st.booleans(),
    st.sampled_from(["RGB", "L", "CMYK"]),
)
@few
def test_the_decoders_agree_on_jpegs_of_any_size(width, height, size, subsampling, progressive, mode):
    image = PHOTOGRAPH.resize((width, height)).convert(mode)
    encoded = encode(image, "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
    fast, exact = decode(encoded, size, "fast"), decode(encoded, size, "exact")
    for found in (fast, exact):
        assert found.shape == (3, size, size)
        assert found.dtype == torch.uint8
        assert found.is_contiguous()
    assert torch.equal(exact, adm(opened(encoded), size))
    assert off(fast, exact).max() <= MOST_OFF


@given(st.integers(4, 90), st.integers(4, 90), st.integers(0, 2**31))
@few
def test_halving_is_pillows_to_the_bit(width, height, seed):
    assume(module._alike((height, width), 2))
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    halved = module._halved(torch.from_numpy(pixels)[None].permute(0, 3, 1, 2))
    expected = Image.fromarray(pixels).resize((width // 2, height // 2), Image.Resampling.BOX)
    assert np.array_equal(halved[0].permute(1, 2, 0), np.asarray(expected))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "PPM", "QOI", "BMP", "TIFF"])
def test_any_format_without_loss_is_exact(format, decoder):
    encoded = encode(PHOTOGRAPH, format, **({"lossless": True} if format == "WEBP" else {}))
    assert torch.equal(decode(encoded, 48, decoder), adm(PHOTOGRAPH, 48))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_any_mode_is_read_as_image_folder_does(mode, decoder):
    encoded = encode(PHOTOGRAPH.convert(mode), "PNG")
    assert torch.equal(decode(encoded, 48, decoder), adm(opened(encoded), 48))


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_palette_with_transparency_keeps_its_colours_without_a_warning(decoder):
    opaque = PHOTOGRAPH.quantize(16)
    encoded = encode(opaque, "PNG", transparency=bytes([0, 128] + [255] * 14))
    assert torch.equal(decode(encoded, 48, decoder), adm(opaque, 48))


@pytest.mark.parametrize("decoder", DECODERS)
def test_sixteen_bits_of_grey_become_the_upper_eight(decoder):
    grey = np.random.default_rng(0).integers(0, 2**16, (24, 24), np.uint16)
    found = decode(encode(Image.fromarray(grey), "PNG"), 24, decoder)
    assert np.array_equal(found, np.stack([grey >> 8] * 3))


@pytest.mark.parametrize("decoder", DECODERS)
def test_floating_point_pixels_are_refused(decoder):
    with pytest.raises(DamagedImageError, match="floating-point"):
        decode(encode(PHOTOGRAPH.convert("F"), "TIFF"), 24, decoder)


def test_what_simplejpeg_would_colour_otherwise_is_left_to_pillow(taken_by_simplejpeg):
    cmyk = encode(PHOTOGRAPH.convert("CMYK"), "JPEG")
    assert torch.equal(decode(cmyk, 64, "fast"), decode(cmyk, 64, "exact"))
    assert taken_by_simplejpeg == [False]


def test_a_grey_jpeg_is_taken_by_simplejpeg(taken_by_simplejpeg):
    grey = encode(PHOTOGRAPH.convert("L"), "JPEG")
    assert off(decode(grey, 64, "fast"), decode(grey, 64, "exact")).max() <= MOST_OFF
    assert taken_by_simplejpeg == [True]


@pytest.mark.parametrize("decoder", DECODERS)
def test_exif_orientation_is_ignored(decoder):
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = encode(PHOTOGRAPH, "JPEG"), encode(PHOTOGRAPH, "JPEG", exif=exif)
    assert ImageOps.exif_transpose(opened(turned)).size != PHOTOGRAPH.size, "the file does not say it is turned"
    assert torch.equal(decode(plain, 64, decoder), decode(turned, 64, decoder))


@given(st.data())
@few
def test_a_truncated_jpeg_raises_wherever_it_was_cut(data):
    image = PHOTOGRAPH.resize((60, 44))
    encoded = encode(image, "JPEG", progressive=data.draw(st.booleans()))
    kept = data.draw(st.integers(0, len(encoded) - 1))
    for decoder in DECODERS:
        with pytest.raises(DamagedImageError):
            decode(encoded[:kept], 32, decoder)


@given(st.integers(0, 2**31), st.sampled_from(["JPEG", "PNG", "WEBP", "PPM", "GIF", "TIFF"]))
@few
@pytest.mark.filterwarnings("ignore")  # Pillow's, about what is damaged
def test_damaged_bytes_raise_one_error_or_none(seed, format):
    generator = np.random.default_rng(seed)
    encoded = np.frombuffer(encode(PHOTOGRAPH.resize((60, 44)), format), np.uint8).copy()
    encoded[generator.integers(0, len(encoded), 4)] = generator.integers(0, 256, 4)
    outcomes: list[torch.Tensor | None] = []
    for decoder in DECODERS:
        try:
            outcomes.append(decode(encoded.tobytes(), 32, decoder))
        except DamagedImageError:
            outcomes.append(None)
    fast, exact = outcomes
    assert (fast is None) == (exact is None)
    assert fast is None or exact is None or off(fast, exact).max() <= MOST_OFF


def test_a_jpeg_with_a_fault_that_pillow_tolerates_is_pillows(taken_by_simplejpeg):
    whole = encode(PHOTOGRAPH, "JPEG")
    encoded = whole[:-2] + bytes(8) + whole[-2:]
    assert torch.equal(decode(encoded, 64, "fast"), adm(opened(whole), 64))
    assert taken_by_simplejpeg == [False]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoded", [b"", b"\xff\xd8", b"P6\n8 8\n255\n", b"not an image at all"])
def test_what_is_no_image_raises(encoded, decoder):
    with pytest.raises(DamagedImageError):
        decode(encoded, 8, decoder)


@pytest.mark.parametrize("decoder", DECODERS)
def test_an_image_too_large_to_be_meant_raises_before_it_fills_the_memory(decoder, monkeypatch):
    encoded = encode(PHOTOGRAPH, "JPEG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PHOTOGRAPH.width * PHOTOGRAPH.height // 3)
    with pytest.raises(DamagedImageError, match="DecompressionBombError"):
        decode(encoded, 64, decoder)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("width", "height"), [(1, 3000), (3000, 1)])
def test_an_extremely_narrow_image_is_enlarged_in_little_memory(width, height, decoder):
    # A gradient: what is kept is its middle.
    ramp = np.linspace(0, 255, 3000).round().astype(np.uint8).reshape(height, width)
    found = decode(encode(Image.fromarray(ramp), "JPEG", quality=100), 256, decoder)
    assert off(found, torch.full_like(found, 127)).max() <= 2


@given(st.integers(1, 31), st.integers(1, 9), st.booleans(), st.integers(0, 2**31))
@few
def test_a_narrow_image_is_cropped_as_if_it_were_scaled_whole(short, more, tall, seed):
    size = 16
    width, height = (short, (NARROW + more) * short) if tall else ((NARROW + more) * short, short)
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))
    scale = size / short
    whole = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    left, top = (whole.width - size) // 2, (whole.height - size) // 2
    expected = torch.from_numpy(np.array(whole.crop((left, top, left + size, top + size))))
    assert off(torch.from_numpy(np.array(center_crop(image, size))), expected).max() <= 1


@given(st.integers(1, 40), st.integers(0, 2**31), st.sampled_from(["webp", "raw"]), st.sampled_from(DECODERS))
@few
def test_a_stored_crop_comes_back_to_the_bit(size, seed, format, decoder):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    encoded, extension = encode_crop(Image.fromarray(pixels), format)
    assert extension == {"webp": "webp", "raw": "ppm"}[format]
    assert np.array_equal(np.asarray(opened(encoded)), pixels)
    found = decode(encoded, size, decoder)
    assert np.array_equal(found.permute(1, 2, 0), pixels)
    found += 1  # memory of its own


def test_a_photographs_crop_is_smaller_as_webp_than_raw():
    crop = center_crop(PHOTOGRAPH, 256)
    assert len(encode_crop(crop, "webp")[0]) < 0.7 * len(encode_crop(crop, "raw")[0])


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("header", [b"P6 8 8 255 ", b"P6\n# made by\n8 8\n255\n", b"P6\n8\t8\r\n255\n"])
def test_a_ppm_of_any_header_is_read_as_pillow_does(header, decoder):
    encoded = header + bytes(range(192))
    assert torch.equal(decode(encoded, 8, decoder), adm(opened(encoded), 8))
    assert torch.equal(decode(encoded, 5, decoder), adm(opened(encoded), 5))
    with pytest.raises(DamagedImageError):
        decode(encoded[:-1], 8, decoder)
