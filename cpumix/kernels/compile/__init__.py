"""How kernels become machine code: the instruction-set level, the decorators, the cache on disk."""
