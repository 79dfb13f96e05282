"""What the U-Nets of the Stable Diffusion lineage share: their adapter and their hooks."""
