"""NUWA-LIP."""

from dataclasses import dataclass
from typing import ClassVar

from eval.kinds.square import Square
from hdpainter.settings import Method, NuwaLipMethod, NuwaLipSettings


@dataclass(frozen=True)
class NuwaLip(Square):
    """NUWA-LIP at 256 px; the fields from `top_k` to `samples` are those of `NuwaLipSettings`.

    model: a pipeline of its kind, such as nuwa-lip.
    """

    top_k: int = 128
    temperature: float = 1.0
    samples: int = 1
    plain: ClassVar[type[Method]] = NuwaLipMethod
    steps_of_network: ClassVar[float] = (
        50.0  # a sample on the CPU; 3.5 by its operations, which come one code at a time
    )

    def cost(self) -> float:
        return self.samples * self.steps_of_network

    def method(self) -> NuwaLipMethod:
        return NuwaLipMethod(nuwa_lip=NuwaLipSettings(self.top_k, self.temperature, self.samples))
