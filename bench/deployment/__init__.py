"""Files for deployment: other heads, sizes and opsets than the harness runs, described and compared with torch."""
