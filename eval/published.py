"""Figures that others published: quoted, never measured here."""

from dataclasses import dataclass

PAPER = "the paper (HD-Painter: high-resolution and prompt-faithful text-guided image inpainting)"


@dataclass(frozen=True)
class Figures:
    """One row of a published table. clip: CLIP score. accuracy: per cent. preference: per cent of samples for
    which PickScore prefers the paper's method to this one; None where the table has no such column."""

    label: str
    clip: float
    accuracy: float
    preference: float | None = None


@dataclass(frozen=True)
class Published:
    """A published table with where it comes from and what must be known before comparing with it."""

    title: str
    source: str
    rows: tuple[Figures, ...]
    notes: tuple[str, ...]


_NOTES = (
    "10,000 triplets of MSCOCO 2017 val, Stable Inpainting 2.0. No intervals were published; for one accuracy "
    "over 10,000 samples 95% is about ±1 point.",
    "The accuracy is comparable with acc_release only: the released evaluation gives RGB to a detector that "
    "expects BGR.",
)

TABLES = {
    "table1": Published(
        "Table 1: comparison with other methods",
        f"{PAPER}, Table 1",
        (
            Figures("GLIDE", 24.92, 44.0, 62.7),
            Figures("NUWA-LIP", 24.07, 31.8, 67.5),
            Figures("BLD", 24.81, 49.8, 56.3),
            Figures("Stable Inpainting", 24.86, 51.9, 54.3),
            Figures("Ours (HD-Painter)", 26.34, 61.4, 50.0),
        ),
        (
            *_NOTES,
            "The preference is that of the paper's method over the row's; whether it is a mean probability, as "
            "the release computes, or a win rate, as the text says, is not known.",
        ),
    ),
    "table2": Published(
        "Table 2: ablation of PAIntA and RASG",
        f"{PAPER}, Table 2",
        (
            Figures("base (Stable Inpainting)", 24.86, 51.9),
            Figures("only PAIntA", 25.24, 52.2),
            Figures("only RASG", 25.85, 62.0),
            Figures("RASG and PAIntA (Ours)", 26.34, 61.4),
        ),
        _NOTES,
    ),
}
