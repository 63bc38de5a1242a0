"""What `tlcli check` does: look at every file of DATA before anything is trained on them."""
