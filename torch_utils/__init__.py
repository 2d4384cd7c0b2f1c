"""Tensor code only: operators, random generators, devices. Knows no stages and no configuration."""
