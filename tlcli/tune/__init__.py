"""Search: which settings of a recipe train the best classifier, as validation images judge it."""
