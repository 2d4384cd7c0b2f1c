"""Training of the face reader on painted faces."""
