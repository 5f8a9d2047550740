"""One file each method; the module name is the method name."""
