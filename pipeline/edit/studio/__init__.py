"""The work of one session of the studio: what a page asks for, in; what it is to be shown, out."""
