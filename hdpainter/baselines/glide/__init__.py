"""GLIDE (Nichol et al., 2021), the public filtered model that inpaints: 64 px, then 256 px, in pixel space."""
