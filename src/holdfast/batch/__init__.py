"""Many jobs: each row of a file is done once by workers that hold one loaded backbone, here or on a Ray cluster."""
