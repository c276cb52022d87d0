"""The process and its machine: files, ranks, versions, imports."""
