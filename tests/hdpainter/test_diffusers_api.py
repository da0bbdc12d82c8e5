"""The adapter with diffusers' habits paints what HDPainter paints."""

import numpy as np
import pytest
import torch

from hdpainter.diffusers_api import HUB, HDPainterInpaintPipeline
from hdpainter.models.registry import pipeline_names
from hdpainter.settings import Method
from ldm.util import UserError


@pytest.fixture(scope="module")
def pipe(tiny_pipeline):
    return HDPainterInpaintPipeline.from_pretrained(tiny_pipeline, torch_dtype=torch.float32).to("cpu")


def pixels(picture):
    return np.array(picture)


def test_a_call_is_one_of_hdpainter(pipe, photo):
    image, mask = photo(96, 64)
    seed = int(torch.randint(2**32, (), generator=torch.manual_seed(3)))
    told = {"method": Method.load("hd-painter").override({"superres.steps": 2})}
    told |= {"num_inference_steps": 3, "guidance_scale": 4.0, "negative_prompt": "blurry", "eta": 0.1}
    output = pipe(prompt="boat", image=image, mask_image=mask, generator=torch.manual_seed(3), **told)
    told["steps"] = told.pop("num_inference_steps")
    plain = pipe.painter(image, mask, "boat", seed=seed, **told)
    (picture,) = output.images
    assert (pixels(picture) == pixels(plain.image)).all()
    assert output.metadata[0]["seed"] == seed and output.nsfw_content_detected is None
    crop = pipe("boat", image, mask, padding_mask_crop=16, num_inference_steps=1, method=told["method"])
    assert crop.metadata[0]["method"]["input"]["only_masked"] == 16


def test_a_generator_goes_on_and_several_pictures_differ(pipe, photo):
    image, mask = photo(64, 64)
    generator = torch.Generator().manual_seed(5)
    words = {"num_inference_steps": 1, "generator": generator}
    first, second = pipe("boat", image, mask, num_images_per_prompt=2, **words).images
    (third,) = pipe("boat", image, mask, **words).images
    assert len({pixels(picture).tobytes() for picture in (first, second, third)}) == 3
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    alike, again = pipe(["boat"] * 2, [image] * 2, mask, num_inference_steps=1, generator=generators).images
    assert np.abs(pixels(alike).astype(int) - pixels(again)).max() <= 1


def test_the_callback_sees_every_step_and_may_cancel(pipe, photo):
    image, mask = photo(64, 64)
    seen = []

    def look(given, step, timestep, tensors):
        seen.append((given, step, timestep, tensors["latents"].shape))
        if len(seen) == 5:
            raise KeyboardInterrupt

    pipe("boat", image, mask, num_inference_steps=3, callback_on_step_end=look)
    assert [step for _, step, _, _ in seen] == [0, 1, 2] and seen[0][0] is pipe
    times = [timestep for _, _, timestep, _ in seen]
    assert times == sorted(times, reverse=True) and len(set(times)) == 3 and seen[0][3] == (1, 4, 8, 8)
    with pytest.raises(KeyboardInterrupt):
        pipe("boat", image, mask, num_inference_steps=3, callback_on_step_end=look)


def test_sizes_and_kinds_of_output(pipe, photo):
    image, mask = photo(80, 60)
    (array,), nothing = pipe(
        "boat", image, mask, 48, 64, num_inference_steps=1, output_type="np", return_dict=False
    )
    assert array.shape == (48, 64, 3) and 0 <= array.min() < array.max() <= 1 and nothing is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"strength": 0.5}, "strength is 0.5"),
        ({"output_type": "latent"}, "output_type is 'latent': give pil or np"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 pictures"),
        ({"prompt": ["a", "b"]}, "2 prompts and 1 masks for 1 images"),
        ({"num_inference_steps": 0}, "steps is 0: give a number from 1 to 1000"),
    ],
)
def test_mistakes_are_one_line(pipe, photo, words, message):
    image, mask = photo(64, 64)
    with pytest.raises(UserError, match=message):
        pipe(**{"prompt": "boat", "image": image, "mask_image": mask, **words})


def test_names_of_the_hub_are_models_here():
    assert set(HUB.values()) <= set(pipeline_names())
    assert HDPainterInpaintPipeline.from_pretrained("runwayml/stable-diffusion-inpainting").model == "sd15"
