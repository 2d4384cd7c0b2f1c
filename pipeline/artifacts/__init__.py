"""Versioned, immutable, digested folders: what every stage takes and makes."""
