"""Train the embedded checkpoints from scenes alone: `python -m holdfast.shapeworld.training FAMILY -o FOLDER`.

Every stage has a budget of steps or of seconds and saves its progress: the same command resumes a stopped training.
"""
