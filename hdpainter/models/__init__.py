"""Models by name: the registry of public checkpoints, downloads, conversion and loading."""
