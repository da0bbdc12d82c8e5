"""Photos as they come: the bytes stay, large ones are refused before they unfold."""

import numpy as np
import pytest
from PIL import Image

from hdpainter.images import load_image
from hdpainter.web.photos import receive
from ldm.util import UserError


def test_the_bytes_stay_and_the_copy_is_upright(tmp_path, picture):
    photo = receive(picture, "my photo.png", tmp_path, megapixels=1)
    assert photo.path.read_bytes() == picture.read_bytes()
    assert photo.size == (90, 120) and photo.proxy.size == (90, 120)
    assert np.array_equal(photo.load(), load_image(picture))
    assert np.abs(np.array(photo.proxy, int) - np.array(photo.load(), int)).mean() < 4


def test_a_photo_of_24_megapixels(tmp_path):
    path = tmp_path / "large.jpg"
    Image.effect_noise((6000, 4000), 40).convert("RGB").save(path, quality=60)
    photo = receive(path, "large.jpg", tmp_path, megapixels=50)
    assert photo.size == (6000, 4000) and photo.proxy_size == (1024, 683) == photo.proxy.size
    assert len(photo.data_url) < 2**20


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((1200, 1000), "large.png is 1200 x 1000 pixels, over this server's limit"),
        (None, "large.png"),
    ],
)
def test_what_is_refused_is_named_as_the_user_knows_it(tmp_path, size, message):
    path = tmp_path / "0123456789abcdef"
    if size:
        Image.new("1", size).save(path, "PNG")
    else:
        path.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(UserError, match=message) as caught:
        receive(path, "large.png", tmp_path, megapixels=1)
    assert str(tmp_path) not in str(caught.value)
