"""What people read: plots, HTML pages, comparisons of runs, model cards."""
