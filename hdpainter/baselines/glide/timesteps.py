"""Which of the training's timesteps GLIDE samples at. Without torch: settings are checked before it is there."""

from itertools import accumulate, repeat

from ldm.util import UserError

TIMESTEPS = 1000  # of training


def spaced_timesteps(respacing: str, timesteps: int = TIMESTEPS) -> list[int]:
    """The timesteps that are kept, ascending.

    respacing: counts such as "100" or "10,10,3": the range is cut into as many equal sections, and from each that
    many timesteps are taken, evenly and with both ends. "ddim50": every n-th, so that there are 50. "fast27": the
    upsampler's, few where there is much noise. Raises UserError for what is none of these or cannot be.
    """
    name, digits = respacing.rstrip("0123456789"), respacing.removeprefix("ddim")
    if respacing == "fast27":
        kept = spaced_timesteps("10,10,3,2,2", timesteps)
        return [*kept[:-1], timesteps - 3]  # the very last makes pictures worse with so few
    if name == "ddim" and digits:
        for stride in range(1, timesteps):
            if len(places := range(0, timesteps, stride)) == int(digits):
                return list(places)
        raise UserError(f"respacing {respacing!r}: no whole stride takes {digits} of {timesteps} timesteps")
    try:
        counts = [int(count) for count in respacing.split(",")]
    except ValueError:
        raise UserError(
            f"respacing {respacing!r}: give counts such as '100' or '10,10,3', 'ddim50' or 'fast27'"
        ) from None
    kept, start = [], 0
    for i, count in enumerate(counts):
        size = timesteps // len(counts) + (i < timesteps % len(counts))
        if not 1 <= count <= size:
            raise UserError(f"respacing {respacing!r}: cannot take {count} of a section's {size} timesteps")
        spacing = (size - 1) / (count - 1) if count > 1 else 0.0
        # Added up, as the public program does: the sum's rounding decides where a place falls on a half.
        offsets = accumulate(repeat(spacing, count - 1), initial=0.0)
        kept += [start + round(offset) for offset in offsets]
        start += size
    return kept
