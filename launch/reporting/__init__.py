"""What `glueline report` is made of: records, statistics, charts, pages."""
