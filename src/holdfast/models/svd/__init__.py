"""Stable Video Diffusion."""
