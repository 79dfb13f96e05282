"""Training of the embedded checkpoints from scenes alone: `python -m holdfast.shapeworld.training FAMILY -o FOLDER`.

Every stage has a budget of steps or of seconds and saves as it goes: the same command goes on where it was.
"""
