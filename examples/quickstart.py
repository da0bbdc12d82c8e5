# %% [markdown]
# # Quickstart
#
# With the miniature models that ship with the repository, on a CPU: a minute on two cores. They know 20 kinds of
# objects in drawn scenes and no photos. For these: `hdpainter models download sd2`, and `"sd2"` for `"mini"`.

# %%
from pathlib import Path

import numpy as np

from hdpainter import HDPainter
from hdpainter.explain import explain
from hdpainter.mini.examples import example, outlined, sheet

out = Path("outputs/quickstart")
out.mkdir(parents=True, exist_ok=True)
painter = HDPainter.from_config("mini")

# %% [markdown]
# A drawn scene, a mask (white is filled) and a prompt. Any picture will do: an array, a PIL image or a path.

# %%
picture, mask, prompt = example(2, size=256)
task = sheet(["picture", "what is filled"], [[picture, outlined(picture, mask)]], [prompt])
task.save(out / "task.png")
task

# %% [markdown]
# Filled by the method that the model's YAML names. Outside the mask nothing changes.

# %%
result = painter(picture, mask, prompt, seed=2, steps=20)
result.image.save(out / "result.png")
result.image

# %% [markdown]
# What was done, in words:

# %%
result.metadata

# %% [markdown]
# Two methods from the same noise.

# %%
methods = ["stable-inpainting", "painta"]
fills = [painter(picture, mask, prompt, method=method, seed=2, steps=20).image for method in methods]
compared = sheet(methods, [[np.array(fill) for fill in fills]], [prompt])
compared.save(out / "methods.png")
compared

# %% [markdown]
# What they look at: attention maps, and much more in `explained/index.html`.

# %%
explanation = explain(painter, picture, mask, prompt, methods=methods, seed=2, frames=4)
explanation.save(out / "explained")
explanation.figures["attention"]
