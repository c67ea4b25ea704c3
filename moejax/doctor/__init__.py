"""What this machine and this installation can do, for `moejax doctor`.

`examine` asks two processes of its own, so that a package that cannot be
imported, ends the process or never returns is named, and the rest is still
examined. Only `machine`, which one of them runs, imports JAX.
"""
