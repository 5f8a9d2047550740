"""Methods side by side at equal compute: runs over seeds, intervals, and a page that explains itself."""
