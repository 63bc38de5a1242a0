"""The story of `tlcli probe`: how far linear probes get at every depth of one or several networks."""
