"""What a run leaves behind: record, folder, advice, comparisons, pages."""
