"""What the images are: scanning, splitting, decoding, augmenting."""
