"""Dragging points: the pure engine, recipes, and the edit stage."""
