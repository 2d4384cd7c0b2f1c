"""What `python -m scripts.bench` measures: rows, the public formulation they are held against, and
how time and memory are taken. Nothing of the program imports it."""
