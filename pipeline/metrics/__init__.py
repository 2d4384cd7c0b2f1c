"""Feature networks and the distances that rest on them."""
