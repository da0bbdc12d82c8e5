"""Training of the miniature models; `python -m ldm.train CONFIG` runs it."""
