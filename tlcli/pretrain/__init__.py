"""Networks without borrowed weights: self-supervised on images, or trained on synthetic images."""
