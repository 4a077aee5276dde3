from __future__ import annotations

import io
import random
from typing import Any

from PIL import Image, ImageDraw

SIZE = (1200, 900)


def draw(number: int) -> bytes:
    """A picture as PNG: a sky, hills and the grain of a photograph. The same number draws the same picture."""
    chance = random.Random(number)
    width, height = SIZE
    top, bottom = ([chance.randrange(256) for _ in range(3)] for _ in range(2))
    sky = [tuple(a + (b - a) * y // height for a, b in zip(top, bottom, strict=True)) for y in range(height)]
    column = Image.new("RGB", (1, height))
    column.putdata(sky)
    picture = column.resize(SIZE)
    pen = ImageDraw.Draw(picture)
    for level in range(4, 8):
        hills = [
            (x, chance.randint(height * level // 9, height * (level + 1) // 9)) for x in range(0, width + 1, width // 8)
        ]
        pen.polygon([(0, height), *hills, (width, height)], fill=tuple(chance.randrange(256) for _ in range(3)))
    grain = Image.frombytes("L", SIZE, chance.randbytes(width * height)).convert("RGB")
    png = io.BytesIO()
    Image.blend(picture, grain, 0.1).save(png, "PNG")
    return png.getvalue()


def thumbnail(number: int, side: int, quality: int) -> dict[str, Any]:
    """The drawn picture, made small: see `shrink`."""
    return shrink(draw(number), side, quality)


def shrink(picture: bytes | str, side: int, quality: int) -> dict[str, Any]:
    """A picture (its bytes, or a file's path) as a JPEG that is at most `side` pixels wide and high; sizes in bytes before and after."""
    if isinstance(picture, str):
        with open(picture, "rb") as file:
            picture = file.read()
    with Image.open(io.BytesIO(picture)) as image:
        small = image.convert("RGB")
    small.thumbnail((side, side))
    jpeg = io.BytesIO()
    small.save(jpeg, "JPEG", quality=quality)
    return {
        "width": small.width,
        "height": small.height,
        "before": len(picture),
        "after": jpeg.tell(),
        "jpeg": jpeg.getvalue(),
    }
