"""GLIDE."""

from dataclasses import dataclass
from typing import ClassVar

from eval.kinds.square import Square
from hdpainter.baselines.glide.timesteps import spaced_timesteps
from hdpainter.settings import GlideMethod, Method, SamplerSettings, UpsamplerSettings

# Floating point operations of an evaluation, as shares of those of Stable Diffusion 2's UNet at 512 px:
# docs/benchmarks.md.
OF_UNET = {"base": 0.28, "upsampler": 1.58}


@dataclass(frozen=True)
class Glide(Square):
    """GLIDE (filtered), 64 px and then its upsampler to 256 px, by default as its public notebook samples.

    model: a pipeline of its kind, such as glide.
    steps, guidance_scale: of the first network. upsampler_steps, temperature: see `UpsamplerSettings`.
    """

    steps: int = 100
    guidance_scale: float = 5.0
    upsampler_steps: str = "fast27"
    temperature: float = 0.997
    plain: ClassVar[type[Method]] = GlideMethod

    def cost(self) -> float:
        upsampling = len(spaced_timesteps(self.upsampler_steps))
        return self.steps * 2 * OF_UNET["base"] + upsampling * OF_UNET["upsampler"]

    def method(self) -> GlideMethod:
        return GlideMethod(
            sampler=SamplerSettings(steps=self.steps, guidance_scale=self.guidance_scale),
            glide=UpsamplerSettings(self.upsampler_steps, self.temperature),
        )
