"""Benchmarks: datasets, a runner over method x backbone x clip that resumes, reports, and blind comparisons."""
