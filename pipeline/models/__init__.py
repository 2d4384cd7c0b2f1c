"""Networks: StyleGAN2, StyleGAN3, and their file format."""
