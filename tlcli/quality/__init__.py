"""Checks of the images, run by `tlcli check`: broken files, copies, leaks, odd folders and names."""
