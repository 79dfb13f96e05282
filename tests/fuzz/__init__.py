"""Fuzzing of the command line by broken inputs (`inputs`) and by kills (`crashes`)."""
