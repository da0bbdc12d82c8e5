"""What the server takes on."""

from dataclasses import dataclass

from ldm.util import UserError


@dataclass(frozen=True)
class Limits:
    """upload_mb: of a file, in MiB. megapixels: of a picture, in millions. minutes: of a job, from its start.
    drafts: of a job. steps: of a draft. queue: jobs that wait, of all users together; per_user: of one tab
    or caller of the API.
    disk_mb: all temporary files together, in MiB; hours: how long they are kept."""

    upload_mb: int = 64
    megapixels: float = 50
    minutes: float = 60
    drafts: int = 8
    steps: int = 200
    queue: int = 64
    per_user: int = 8
    disk_mb: int = 4096
    hours: float = 4

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if value <= 0:
                raise UserError(f"the limit {key.replace('_', '-')} is {value}: give a positive number")
