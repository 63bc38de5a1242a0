"""Networks in the form in which other frameworks publish weights, one family a module."""
