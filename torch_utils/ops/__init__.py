"""Operators in reference PyTorch, differentiable twice."""
