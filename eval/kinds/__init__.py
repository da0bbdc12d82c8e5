"""What can be a row of the tables: the kinds of methods.

A kind is a frozen dataclass in a file of its own, whose fields are the keys of an entry in a config; to add one,
write it and name it in KINDS.
"""

from eval.kinds.base import Kind
from eval.kinds.bld import BLD
from eval.kinds.folder import Folder
from eval.kinds.glide import Glide
from eval.kinds.joined import Joined
from eval.kinds.mean import Mean
from eval.kinds.nuwa_lip import NuwaLip
from eval.kinds.original import Original
from eval.kinds.pipeline import Pipeline
from eval.kinds.reconstruction import Reconstruction
from eval.kinds.squeezed import Squeezed
from eval.kinds.telea import Telea

KINDS: dict[str, type[Kind]] = {
    "pipeline": Pipeline,
    "bld": BLD,
    "glide": Glide,
    "nuwa-lip": NuwaLip,
    "folder": Folder,
    "joined": Joined,
    "original": Original,
    "squeezed": Squeezed,
    "reconstruction": Reconstruction,
    "mean": Mean,
    "telea": Telea,
}
