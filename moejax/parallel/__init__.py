"""The mesh of devices, the sharding of arrays, and runs of many processes."""
