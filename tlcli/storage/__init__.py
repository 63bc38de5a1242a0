"""Files that do not lie in a local folder: objects of a remote store, and members of archives."""
