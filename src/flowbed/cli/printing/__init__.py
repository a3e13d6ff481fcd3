"""What commands print: results, progress and reports in words."""
