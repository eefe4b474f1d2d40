"""Writes pillow.json: what Pillow makes of small images. Run: python pillow.py (Pillow 12.3)."""

import base64
import colorsys
import io
import json
import pathlib

import numpy as np
from PIL import Image, ImageEnhance, ImageOps


def pattern(height, width, channels=3):
    y, x, c = np.mgrid[0:height, 0:width, 0:channels]
    return ((x * 37 + y * 59 + c * 101 + (x * y) % 17 * 11) % 256).astype(np.uint8)


def text(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def file(image, **options):
    out = io.BytesIO()
    image.save(out, **options)
    return base64.b64encode(out.getvalue()).decode()


filters = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS, "nearest": Image.NEAREST}
image = Image.fromarray(pattern(13, 19))
resized = [
    {"filter": name, "height": h, "width": w, "pixels": text(image.resize((w, h), f))}
    for name, f in filters.items()
    for h, w in [(5, 7), (13, 9), (4, 19), (26, 30)]
]
grey = Image.fromarray(pattern(13, 19, 1)[..., 0])
resized_grey = {"height": 6, "width": 5, "pixels": text(grey.resize((5, 6), Image.BICUBIC))}


def cover(image, short, size):
    """torchvision's Resize(short) and CenterCrop(size) of a Pillow image."""
    w, h = image.size
    w, h = (short, int(short * h / w)) if w <= h else (int(short * w / h), short)
    image = image.resize((w, h), Image.BILINEAR)
    top, left = int(round((h - size) / 2.0)), int(round((w - size) / 2.0))
    return image.crop((left, top, left + size, top + size))


exif = Image.Exif()
exif[0x0112] = 6
smooth = Image.fromarray(pattern(4, 6)).resize((30, 20), Image.BICUBIC)
jpeg = file(smooth, format="JPEG", quality=90, exif=exif)
upright = ImageOps.exif_transpose(Image.open(io.BytesIO(base64.b64decode(jpeg))))
crops = [{"short": s, "size": n, "pixels": text(cover(upright, s, n))} for s, n in [(12, 12), (14, 11), (9, 8)]]
mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
small = np.asarray(cover(upright, 9, 8)).astype(np.float32) / np.float32(255)
normalized = ((small - mean) / std).transpose(2, 0, 1)

cmyk = file(Image.fromarray(pattern(9, 11, 4), "CMYK"), format="JPEG", quality=90)
inks = Image.open(io.BytesIO(base64.b64decode(cmyk))).convert("RGB")

palette = Image.fromarray((pattern(7, 9, 1)[..., 0] % 5)).convert("P")
palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128])


def hue(array, turn):
    out = np.zeros_like(array)
    for place in np.ndindex(array.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*(array[place] / 255))
        out[place] = np.floor(np.array(colorsys.hsv_to_rgb((h + turn) % 1, s, v)) * 255 + 0.5)
    return out


colors = Image.fromarray(pattern(6, 5))
json.dump(
    {
        "resized": resized,
        "resizedGrey": resized_grey,
        "jpeg": jpeg,
        "upright": {"height": upright.height, "width": upright.width, "pixels": text(upright)},
        "grey": text(upright.convert("L")),
        "crops": crops,
        "normalized": [round(float(x), 7) for x in normalized.flatten()],
        "cmyk": {"file": cmyk, "pixels": text(inks)},
        "palette": {"file": file(palette, format="PNG"), "bits4": file(palette, format="PNG", bits=4), "pixels": text(palette)},
        "brightness": text(ImageEnhance.Brightness(colors).enhance(1.3)),
        "contrast": text(ImageEnhance.Contrast(colors).enhance(0.6)),
        "saturation": text(ImageEnhance.Color(colors).enhance(1.7)),
        "hue": text(hue(pattern(6, 5), 0.2)),
    },
    open(pathlib.Path(__file__).parent / "pillow.json", "w"),
    indent=1,
)
