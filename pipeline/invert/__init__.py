"""Pivotal tuning: a picture becomes latents and a tuned generator."""
