"""Drawings in, dataset out: painter, face detection, alignment, the dataset format."""
