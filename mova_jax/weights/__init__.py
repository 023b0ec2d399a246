"""Reading weights of other frameworks: files, names, layouts, sizes, positions."""
