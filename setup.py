"""Packages and the data that travels with them: configs and miniature checkpoints, which lie at the top level."""

from setuptools import find_packages, setup

DATA = {"ldm.configs": "configs", "ldm.checkpoints": "checkpoints"}

setup(
    packages=[*find_packages(include=["ldm*", "hdpainter*", "eval*"]), *DATA],
    package_dir=DATA,
    package_data={
        "ldm.configs": ["**/*.yaml", "**/*.json", "**/*.py", "**/*.csv", "**/*.png"],
        "ldm.checkpoints": ["mini/*.md", "mini/*.json", "mini/*.safetensors", "mini/*.sha256"],
        "ldm": ["py.typed"],
        "hdpainter": ["py.typed"],
        "hdpainter.baselines.glide": ["vocab.bpe.gz", "LICENSE-vocab.txt"],
        "eval": ["assets/*", "py.typed"],
        "hdpainter.web": ["assets/*"],
    },
)
