"""Reports on runs, networks and images: run record and folder, scores, advice, comparison, layer report, pages."""
