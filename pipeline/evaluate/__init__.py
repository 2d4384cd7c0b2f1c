"""Measuring and reporting on what the other stages made."""
