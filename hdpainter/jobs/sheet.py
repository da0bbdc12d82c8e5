"""A contact sheet: several results of one job side by side, to choose from."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, LINE = 384, 12, 26  # longer side of a picture, space around it, height of a caption, in pixels


def contact_sheet(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """The pictures, small and of one size each, in rows with a caption under each."""
    columns = math.ceil(math.sqrt(len(pictures)))
    small = [picture.copy() for picture in pictures]
    for picture in small:
        picture.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    width, height = max(one.width for one in small), max(one.height for one in small)
    rows = math.ceil(len(small) / columns)
    size = GAP + columns * (width + GAP), GAP + rows * (height + LINE + GAP)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for number, (picture, caption) in enumerate(zip(small, captions, strict=True)):
        row, column = divmod(number, columns)
        left, top = GAP + column * (width + GAP), GAP + row * (height + LINE + GAP)
        sheet.paste(picture, (left, top))
        draw.text((left, top + height + 4), caption, "black", font)
    return sheet
