"""What `python -m scripts.gpu_check` runs: a table of correctness, a table of speed, their report.

Nothing of the program imports it; every part also runs on the CPU, where its tests run it.
"""
