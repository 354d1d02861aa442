"""The host: sources, crawl jobs, multi-source parents, and the tasks that crawl them."""
