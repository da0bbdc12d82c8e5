"""Training of the miniature models; `python -m hdpainter.mini.train CONFIG` runs it."""
