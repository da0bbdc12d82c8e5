"""Stage 1 and the rest one after the other, as the page has it: drafts first, one of them is finished."""

import numpy as np
import pytest

from hdpainter.settings import Method
from ldm.util import UserError

METHOD = Method.load("hd-painter").override({"sampler.steps": 2, "superres.steps": 2})


@pytest.mark.parametrize("superres", [True, False])
def test_a_finished_draft_is_what_one_call_makes(painter, photo, superres):
    image, mask = photo(100, 70)
    whole = painter(image, mask, "boat", method=METHOD, seed=3, superres=superres)
    draft = painter.draft(image, mask, "boat", method=METHOD, seed=3)
    result = painter.finish(image, mask, "boat", draft, method=METHOD, seed=3, superres=superres)
    assert np.array_equal(draft, whole.low_res)
    assert np.array_equal(result.image, whole.image)
    timeless = [{k: v for k, v in r.metadata.items() if k != "seconds"} for r in (result, whole)]
    assert timeless[0] == timeless[1]


def test_a_draft_of_another_picture_is_refused(painter, photo):
    draft = photo(64, 64)[0]
    with pytest.raises(UserError, match="the draft is 64 x 64 pixels, stage 1 of this picture 64 x 44"):
        painter.finish(*photo(100, 70), "boat", draft, method=METHOD)


def test_progress_can_stop_a_draft(painter, photo):
    def stop(stage, step, steps):
        raise KeyboardInterrupt(f"{stage} {step}/{steps}")

    with pytest.raises(KeyboardInterrupt, match="inpainting 1/2"):
        painter.draft(*photo(64, 64), "boat", method=METHOD, progress=stop)
