"""Adversarial training of a generator on a dataset."""
