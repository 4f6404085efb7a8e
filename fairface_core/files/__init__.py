"""Files that are seen whole or not at all, on a disk or in an object store, and read with care."""
