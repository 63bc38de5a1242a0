"""What may be wrong with the images: `tlcli check`."""
