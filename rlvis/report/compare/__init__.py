"""Several runs on one page: arms (runs that differ only in their seed), panels about them, the page."""
