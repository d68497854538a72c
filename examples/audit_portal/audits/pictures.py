"""Photographs for the seeded audits, drawn rather than taken: the same number gives the same picture."""

from __future__ import annotations

import io
import math
import random
from functools import cache

from PIL import Image, ImageDraw, ImageFilter

SIZE = (1280, 960)
SHARP = (960, 720)
WALLS = [((58, 66, 78), (24, 28, 36)), ((96, 88, 78), (44, 38, 34)), ((70, 84, 82), (28, 38, 38))]
STEEL = [(188, 194, 200), (168, 176, 186), (198, 192, 180)]


def photograph(number: int) -> bytes:
    """Return a JPEG of something an inspector looks at: doors, a panel, a machine or a pit."""
    dice = random.Random(number)
    image = wall(dice)
    draw = ImageDraw.Draw(image)
    (doors, panel, machine, pit)[number % 4](draw, dice)
    image = image.resize(SHARP, Image.Resampling.BILINEAR).filter(ImageFilter.BoxBlur(0.7))
    image = Image.composite(image, Image.new("RGB", SHARP, (8, 9, 12)), torch(dice))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=76)
    return out.getvalue()


def wall(dice: random.Random) -> Image.Image:
    return shaded(*dice.choice(WALLS)).copy()


@cache
def shaded(top: tuple[int, int, int], bottom: tuple[int, int, int]) -> Image.Image:
    shade = Image.linear_gradient("L").resize(SIZE)
    return Image.composite(Image.new("RGB", SIZE, bottom), Image.new("RGB", SIZE, top), shade)


def torch(dice: random.Random) -> Image.Image:
    """The light of a hand lamp: bright somewhere near the middle, dark in the corners."""
    (width, height), left, top = SHARP, 180 + dice.randrange(-120, 120), 135 + dice.randrange(-90, 90)
    return lamp().crop((left, top, left + width, top + height))


@cache
def lamp() -> Image.Image:
    light = Image.radial_gradient("L").point([255 - int(value * 0.82) for value in range(256)])
    return light.resize((SHARP[0] + 360, SHARP[1] + 270))


def doors(draw: ImageDraw.ImageDraw, dice: random.Random) -> None:
    steel = dice.choice(STEEL)
    gap = dice.randrange(6, 60)
    draw.rectangle((250, 90, 1030, 960), fill=(40, 42, 46))
    for left, right in ((280, 640 - gap // 2), (640 + gap // 2, 1000)):
        for x in range(left, right):
            lit = 0.74 + 0.26 * math.sin((x - left) / max(right - left, 1) * math.pi)
            draw.line((x, 130, x, 960), fill=tuple(int(part * lit) for part in steel))
    draw.rectangle((640 - gap // 2, 130, 640 + gap // 2, 960), fill=(14, 14, 16))
    draw.rectangle((540, 28, 740, 76), fill=(16, 18, 20))
    draw.text((590, 28), f"{dice.randrange(1, 24):02d} ^", fill=(255, 122, 48), font_size=42)


def panel(draw: ImageDraw.ImageDraw, dice: random.Random) -> None:
    draw.rounded_rectangle((400, 50, 880, 910), 28, fill=dice.choice(STEEL), outline=(90, 94, 100), width=5)
    draw.rounded_rectangle((460, 90, 820, 200), 12, fill=(20, 22, 26))
    draw.text((560, 96), f"{dice.randrange(1, 12):>3}", fill=(255, 122, 48), font_size=84)
    lit = dice.randrange(10)
    for index in range(10):
        x, y = 530 + index % 2 * 220, 290 + index // 2 * 120
        ring = (255, 176, 64) if index == lit else (128, 132, 140)
        draw.ellipse((x - 44, y - 44, x + 44, y + 44), fill=(222, 226, 230), outline=ring, width=8)
        draw.text((x, y), str(9 - index), fill=(44, 48, 54), font_size=44, anchor="mm")


def machine(draw: ImageDraw.ImageDraw, dice: random.Random) -> None:
    x, y, radius = 560 + dice.randrange(120), 430, 290
    for rope in range(5):
        draw.line((x - radius + 14 * rope, y, x - radius + 14 * rope, 960), fill=(120, 116, 108), width=7)
    draw.ellipse(
        (x - radius, y - radius, x + radius, y + radius), fill=(150, 62, 40), outline=(80, 34, 24), width=18
    )
    draw.ellipse((x - 200, y - 200, x + 200, y + 200), fill=(54, 58, 66))
    turn = dice.random()
    for spoke in range(6):
        angle = turn + spoke * math.pi / 3
        draw.line((x, y, x + 200 * math.cos(angle), y + 200 * math.sin(angle)), fill=(150, 62, 40), width=36)
    draw.ellipse((x - 60, y - 60, x + 60, y + 60), fill=(186, 190, 196))
    draw.rectangle((900, 300, 1240, 640), fill=(46, 90, 84), outline=(28, 56, 54), width=8)
    for fin in range(8):
        draw.line((930 + fin * 40, 320, 930 + fin * 40, 620), fill=(34, 70, 66), width=12)


def pit(draw: ImageDraw.ImageDraw, dice: random.Random) -> None:
    draw.polygon([(0, 960), (280, 560), (1000, 560), (1280, 960)], fill=(62, 60, 56))
    for x in (330, 900):
        draw.rectangle((x, 0, x + 46, 640), fill=(150, 156, 162))
        draw.line((x + 23, 0, x + 23, 640), fill=(98, 104, 110), width=6)
    for ring in range(9):
        y = 700 - ring * 34
        draw.arc((520, y - 40, 760, y + 40), 0, 360, fill=(214, 170, 52), width=13)
    draw.ellipse((540, 370, 740, 450), fill=(40, 42, 46))
    width = dice.randrange(120, 320)
    draw.ellipse((640 - width, 830, 640 + width, 900), fill=(34, 42, 50))
