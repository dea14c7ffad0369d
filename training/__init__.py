"""What runs in every rank, under torchrun; `config`, `batching` and `rundir` run anywhere."""
