"""The report's sections, each from one artifact's folder to plain values for the template.

One module an artifact; each knows its payload's file names and keys, and nothing of HTML, of the
store or of the other artifacts.
"""
