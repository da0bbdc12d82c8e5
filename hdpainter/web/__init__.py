"""The page and the HTTP API, ``hdpainter web``.

command.py starts it (server.py) and says who may come in (access.py, guard.py). layout.py has the components,
page.py says which method of studio.py answers which event, for each tab apart (session.py), and api.py answers
scripts. Below these nothing knows of gradio: menu.py has what may be chosen, engine.py the queue of orders and
the thread that paints, work.py what it does there, photos.py and masks.py what comes from the browser, recipes.py
the same picture by a command or a YAML file, workspace.py the temporary files.
"""
