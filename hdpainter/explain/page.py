"""The page that shows all figures of an observation."""

import json
from html import escape
from string import Template

from hdpainter.explain.figures import Plate
from hdpainter.explain.observation import Observation

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Explained: $prompt</title>
<style>
body { max-width: 1700px; margin: 0 auto; padding: 1.5rem; font: 16px/1.5 system-ui, sans-serif; color: #222; }
h1 { font-size: 1.5rem; margin: 0; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: 1rem 0; }
a { color: #1a5fb4; }
figure { margin: 0 0 3rem; padding-top: 1rem; border-top: 1px solid #ddd; }
figcaption { max-width: 75em; margin: .5rem 0; color: #555; }
img { max-width: 100%; height: auto; }
summary { padding: .5rem 0; font-size: 1.2rem; font-weight: 600; cursor: pointer; }
pre { overflow: auto; padding: 1rem; background: #f5f5f5; font-size: .8rem; }
</style>
</head>
<body>
<h1>“$prompt”</h1>
<p>Seed $seed. $methods. Every number is in <a href="arrays.npz">arrays.npz</a>;
<a href="x0.gif">x0.gif</a> shows the predictions in motion.</p>
<nav>$links</nav>
$sections
<details><summary>Settings of each picture</summary><pre>$settings</pre></details>
</body>
</html>
""")


def render(observation: Observation, plates: dict[str, Plate]) -> str:
    """HTML that refers to the figures as NAME.png beside it: those of all methods, then each one's, to fold."""
    groups: dict[str, list[str]] = {"": [], **{name: [] for name in observation.methods}}
    for name in plates:
        owners = [method for method in observation.methods if name.endswith(f"-{method}")]
        groups[max(owners, key=len, default="")].append(name)
    settings = {name: explained.result.metadata for name, explained in observation.methods.items()}
    return PAGE.substitute(
        prompt=escape(observation.prompt) or "(empty prompt)",
        seed=observation.seed,
        methods=", ".join(observation.methods),
        links="\n".join(
            [f'<a href="#{name}">{escape(plates[name].title)}</a>' for name in groups[""]]
            + [f'<a href="#of-{escape(method)}">{escape(method)}</a>' for method in observation.methods]
        ),
        sections="\n".join(
            [_figure(name, plates[name]) for name in groups.pop("")]
            + [
                f'<details id="of-{escape(method)}" open><summary>{escape(method)}</summary>\n'
                + "\n".join(_figure(name, plates[name]) for name in names)
                + "\n</details>"
                for method, names in groups.items()
            ]
        ),
        settings=escape(json.dumps(settings, indent=2, ensure_ascii=False)),
    )


def _figure(name: str, plate: Plate) -> str:
    name, title = escape(name), escape(plate.title)
    return (
        f'<figure id="{name}"><a href="{name}.png"><img src="{name}.png" alt="{title}" loading="lazy" '
        f'width="{plate.image.width}" height="{plate.image.height}"></a>\n'
        f"<figcaption>{escape(plate.caption)}</figcaption></figure>"
    )
