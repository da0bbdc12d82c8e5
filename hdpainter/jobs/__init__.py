"""Making pictures from files and into files: one, or a list that may be stopped and started again.

job: one picture to make and all that may be set for it, `JobSettings`.
job_files: lists of jobs read from YAML, CSV, JSON Lines or a folder of pictures.
plan: what there is to do, each job checked and compared with what is on disk, before a model loads.
hashes: of photos and results, kept between runs.
painting: a task painted here, or by a member of a team.
batch: the jobs that are left, in batches, with what fails reported and the others made.
results: a picture and the record of what made it, written so that neither can be there by half.
progress: how far a run is, as bars on a terminal and as lines elsewhere.
commands: ``hdpainter inpaint`` and ``hdpainter batch``.
"""
