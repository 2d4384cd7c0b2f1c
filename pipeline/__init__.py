"""animedrag: drag-editing of anime faces, from a folder of drawings to an edited picture."""
