"""The process and the computer it runs on: files, ranks, versions, imports."""
