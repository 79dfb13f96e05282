"""The mathematics that methods share: the velocity field, noise, schedules, guidance, solvers, windows, adapters."""
