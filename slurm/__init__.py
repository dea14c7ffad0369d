"""What runs inside an allocation, one process per node; and `cluster`, a virtual one for tests."""
